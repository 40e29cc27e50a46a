"""Max pooling: the largest entry of every window."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from oodattack.bounds.affine import Shape
from oodattack.bounds.ball import Interval


@dataclass(frozen=True)
class Peak:
    """h_w = max of z over window w, (N, C, H, W) -> (N, C, H', W').

    Attributes:
        windows: places in H W of the entries of every window, shape (H' W', k); H W stands for none.
        shape: of the input, one row.
        out: of the output, one row.
    """

    windows: Tensor
    shape: Shape
    out: Shape

    def point(self, z: Tensor) -> Tensor:
        """h."""
        return self._seen(z, -torch.inf).amax(dim=3).view(-1, *self.out)

    def interval(self, z: Interval) -> Interval:
        """Of an increasing function: its values at the ends."""
        return Interval(self.point(z.lower), self.point(z.upper))

    def lower(self, a: Tensor, z: Interval) -> tuple[tuple[Tensor, ...], Tensor]:
        """<a, h> >= <a', z> + c for all z in the interval.

        h is at least the entry with the largest lower end, and equal to it where no other can be larger; elsewhere it
        is at most the largest upper end.

        Args:
            a: shape (B or 1, S, C, H', W').
            z: bounds of the input, shapes (B, C, H, W).

        Returns:
            (a',), shape (B, S, C, H, W), and c, shape (B, S).
        """
        floor, place = self._seen(z.lower, -torch.inf).max(dim=3)  # (B, C, H' W')
        tops = self._seen(z.upper, -torch.inf)
        rivals = tops.scatter(3, place[..., None], -torch.inf).amax(dim=3)
        a = a.flatten(3).expand(len(floor), -1, -1, -1)  # (B, S, C, H' W')
        sure = (floor >= rivals)[:, None]
        kept = torch.where(sure, a, a.clamp(min=0))
        where = self.windows.to(place.device).expand(*place.shape, -1).gather(3, place[..., None]).squeeze(3)
        part = self._put(kept, where[:, None].expand_as(kept))
        constant = torch.where(sure, 0.0, a.clamp(max=0) * tops.amax(dim=3)[:, None])
        return (part,), constant.flatten(2).sum(dim=2)

    def slopes(self, a: Interval, _z: Interval) -> tuple[Interval, ...]:
        """Every entry of a window may be the one that passes its gradient on, or not."""
        return (Interval(self._shared(a.lower.clamp(max=0)), self._shared(a.upper.clamp(min=0))),)

    def lipschitz(self, of_input: float) -> float:
        """Constant of h in l2: that of z times the root of the number of windows that an entry is in."""
        count = self.windows.flatten().bincount(minlength=self.shape[1] * self.shape[2] + 1)[:-1].max().item()
        return of_input * math.sqrt(count)

    def _seen(self, z: Tensor, outside: float) -> Tensor:
        """Entries of every window: (N, C, H, W) -> (N, C, H' W', k)."""
        flat = torch.cat([z.flatten(2), z.new_full((*z.shape[:2], 1), outside)], dim=2)
        return flat[:, :, self.windows.to(z.device)]

    def _put(self, a: Tensor, where: Tensor) -> Tensor:
        """Sum `a` (B, S, C, n) at places in H W: (B, S, C, H, W)."""
        flat = a.new_zeros(*a.shape[:3], self.shape[1] * self.shape[2] + 1).scatter_add(3, where, a)
        return flat[..., :-1].reshape(*a.shape[:2], *self.shape)

    def _shared(self, a: Tensor) -> Tensor:
        """Give every entry of a window the whole of its coefficient."""
        entries = self.windows.to(a.device).flatten()
        spread = a.flatten(3)[..., None].expand(-1, -1, -1, -1, self.windows.shape[1]).flatten(3)
        return self._put(spread, entries.expand_as(spread))


def peak(module: nn.MaxPool2d, shape: Shape) -> Peak:
    """The step of a max pool, for inputs of one shape."""
    out = max_pool2d(
        torch.zeros(1, *shape), module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
    ).shape[1:]
    lines = []
    for i in (0, 1):
        size, stride, padding, dilation = (
            part if isinstance(part, int) else part[i % len(part)]
            for part in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        at = torch.arange(out[1 + i])[:, None] * stride - padding + dilation * torch.arange(size)
        lines.append(torch.where((at < 0) | (at >= shape[1 + i]), -1, at))
    down, across = lines[0][:, None, :, None], lines[1][None, :, None, :]
    places = torch.where((down < 0) | (across < 0), shape[1] * shape[2], down * shape[2] + across)
    return Peak(places.flatten(2).flatten(0, 1), shape, tuple(out))
