"""A score in the clothes of a classifier, for attacks of torchattacks."""

from typing import Any

import torch
from torch import Tensor, nn

from oodattack.attack import Seen
from oodattack.attacks.torchattacks_book import Book
from oodattack.attacks.torchattacks_table import Foreign
from oodattack.geometry import wide

ROUNDING = 1e-6  # a pixel may be this far outside the limits, and is then put inside before it is asked about


class Spent(Exception):
    """The budget of a run is spent; ends the foreign loop from inside the classifier."""


class FourLogits(nn.Module):
    """Four logits for the foreign attack; the first is the true class, the second rises with the loss."""

    def __init__(self, book: Book, rows: Tensor, left: int, foreign: Foreign) -> None:
        super().__init__()
        self.device_tag = nn.Parameter(rows.new_zeros(0, dtype=torch.float32))  # they look here for the device
        self.book, self.rows, self.left, self.foreign = book, rows, left, foreign

    def forward(self, images: Tensor) -> Tensor:
        """Ask about the images, each row k times in a batch, and answer with logits (N, 4)."""
        book, n = self.book, len(self.rows)
        copies, rest = divmod(len(images), n)
        assert not rest, "the batch must hold every row equally often"
        if copies > self.left:
            raise Spent
        self.left -= copies
        places = torch.arange(len(images), device=images.device)  # (n, copies), where in the batch each row is
        places = places.view(copies, n).T if self.foreign.copies == "tile" else places.view(n, copies)
        rows = self.rows.new_empty(len(images))
        rows[places] = self.rows[:, None].expand_as(places)
        point, inside = self._within(images, book.x[rows])
        needs_grad = self.foreign.white_box and images.requires_grad and torch.is_grad_enabled()
        seen = book.ask(point, rows, needs_grad=needs_grad)
        allowed = seen.value.where(inside, -float("inf"))[places]
        best = places.gather(1, allowed.argmax(1, keepdim=True)).flatten()
        book.keep(Seen(seen.x_adv[best], allowed.amax(1), None), self.rows)
        first = places[:, 0]
        book.measure(Seen(point, seen.value[first], None if seen.grad is None else seen.grad[first]), self.rows)
        return self._logits(images, seen, rows)

    def _within(self, images: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images in the [0, 1] box, and which of them are in the ball: those are projected, to be so exactly."""
        point = images.detach().to(x.dtype).clamp(0, 1)
        point = point.where(point.isfinite(), x)  # they divide a zero gradient by its size
        projected = self.book.threat.project(point, x)
        inside = (projected - point).abs().flatten(1).amax(1) <= ROUNDING
        return projected.where(wide(inside, x), point), inside

    def _logits(self, images: Tensor, seen: Seen, rows: Tensor) -> Tensor:
        """(1, 0.5 + u / (1 + |u|) / 4, -1, -1) with u = gain / scale; in backward as if it were (1, u / 4, -1, -1).

        For a threshold (10, 10 + u, 0, 0) with u = (L - threshold) / scale.
        """
        book = self.book
        scale = book.scale[rows].where(book.scale[rows] > 0, 1)
        start = book.threshold if self.foreign.nearest else book.at_clean
        u = ((seen.value - start[rows]) / scale).clamp(-1e6, 1e6)
        rising, factor, others = 0.5 + 0.25 * u / (1 + u.abs()), 0.25, (1.0, -1.0, -1.0)
        if self.foreign.nearest:
            rising, factor, others = 10 + u, 1.0, (10.0, 0.0, 0.0)
        rising = rising.to(images.dtype)
        if seen.grad is not None:
            slope = seen.grad * wide(factor / scale, seen.grad)
            rising = _Known.apply(images, rising, slope.to(images.dtype).contiguous())  # PGDL2 views it flat
        true, *rest = (torch.full_like(rising, value) for value in others)
        return torch.stack([true, rising, *rest], dim=1)


class _Known(torch.autograd.Function):
    """A function of the images whose values and gradients are known already: (N, ...), (N,), (N, ...) -> (N,)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return wide(grad, slope) * slope, None, None
