"""Images that leave PyTorch inside a score and come back, through NumPy, PIL or a codec, as tensors without a gradient.

They get the one of the images that they were made of: y -> y + A r - stop(A r), where r is the part of those images
that y shows, resized, and A a linear map of colours. Mean and standard deviation, the order of channels and grey are
all such maps (backward pass differentiable approximation of input transformations: Athalye, Carlini & Wagner,
arXiv:1802.00420, section 4.1; theirs is the identity, for y of the shape of x). Part and map are those that explain
best what comes back of a few images; see `View`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Shape = tuple[int, ...]  # (K, H, W) of what comes back

CHANNELS = (1, 3, 4)  # of images, beside those of the ones that left; inputs of most layers have more
SMALLEST = 4  # height and width: fewer pixels are like anything
EXPLAINED = 0.5  # least share of the variance; a codec at quality 50 leaves .77 of noise, weights have none of it
SHARES = 12  # squares in the middle that are tried, from 3/4 of the shorter side; then each side near the best
TIMES = 12  # as many images, of which some come back twice, or are there to fill a batch; ten crops are usual
GREY = 16  # height and width at which rows are compared


class View(NamedTuple):
    """What images of one shape show of the ones that left.

    Attributes:
        explained: share of their variance that this explains.
        side: of the square in the middle that they show, in pixels; None for all of the image.
        colours: the matrix A of y = A r + b, shape (K, C).
    """

    explained: float
    side: int | None
    colours: Tensor


class Returned:
    """Finds the images that came back among the arguments and values of functions, called one after the other.

    Args:
        x: the images before they left, shape (B, C, H, W), with a gradient.
        views: by shape, what came back of others; None: it is found out, and lies in the attribute.
    """

    def __init__(self, x: Tensor, views: Mapping[Shape, View] | None = None) -> None:
        self.x = x
        self.views = dict(views or {})
        self.learns = views is None
        self.turn = 0  # row that comes next where they come a few at a time
        self.seen: dict[int, _Seen] = {}  # by `id`

    def attached(self, y: Any) -> Any:
        """`y` itself, or, if it shows the images, the same numbers with their gradient; so for each of a list."""
        if type(y) in (list, tuple):
            return type(y)(map(self.attached, y))
        if not may_show(y, self.x):
            return y
        before = self.seen.get(id(y))
        if before is not None:
            before.take_over()
        if before is None or before.version != version_of(y):
            before = self.seen[id(y)] = _Seen(y, version_of(y), self._attached(y.detach()))
        return y if before.attached is None else before.attached

    def made(self, y: Any) -> Any:
        """As `attached` of a tensor that a function returned, which scripted code may take; but what shows nothing yet
        may be there to be written to.
        """
        attached = self._attached(y.detach(), sure=True) if may_show(y, self.x) else None
        return y if attached is None else attached

    def unwritten(self, y: Any) -> Any:
        """`y` itself, and not looked at before something is written to it: memory may hold images of a call before."""
        if may_show(y, self.x):
            self.seen[id(y)] = _Seen(y, version_of(y), None)
        return y

    @torch.enable_grad()
    def _attached(self, y: Tensor, *, sure: bool = False) -> Tensor | None:
        """y with the gradient of what it shows; None where `_shown` says that it shows nothing."""
        if len(y) > len(self.x):
            pieces = [(rows, self._attached(rows, sure=sure)) for rows in y.split(len(self.x))]
            found = any(attached is not None for _, attached in pieces)
            return torch.cat([rows if attached is None else attached for rows, attached in pieces]) if found else None
        if (showing := self._shown(y, sure=sure)) is None:
            return None
        rows, view = showing
        self.views.setdefault(tuple(y.shape[1:]), view)
        self.turn = (self.turn + len(y)) % len(self.x)
        shown = torch.einsum("kc,bchw->bkhw", view.colours.to(y), part(self.x.to(y)[rows], view.side, y.shape[2:]))
        return y + (shown - shown.detach())

    def _shown(self, y: Tensor, *, sure: bool) -> tuple[Tensor, View] | None:
        """Which images each row of y shows, and what of them: the part is the same in all calls, the colours may be
        another network's. None where it shows something else; if `sure`, also where it shows too little.
        """
        known = self.views.get(tuple(y.shape[1:]))
        if known is None and not self.learns:
            return None
        x = self.x.detach().to(y)
        turn, alike = self._orders(x, y)
        fits = [(r, best_view(x[r], y) if known is None else view_of(x[r], y, known.side)) for r in (turn, alike)]
        rows, view = max(fits, key=lambda fit: fit[1].explained)
        if view.explained >= EXPLAINED * (1.0 if known is None else known.explained):
            return rows, view
        if sure or known is None or not (faint(x[turn]) or row_by_row(x[turn], y, known.side)):
            return None
        return turn, known

    def _orders(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which of x each row of y may show: those whose turn it is, and those that are most like it."""
        turn = (self.turn + torch.arange(len(y), device=x.device)) % len(x)
        return turn, (grey(y) @ grey(x).mT).abs().argmax(dim=1)


class _Seen(NamedTuple):
    """An argument, kept so that its `id` stays its own, its version, and what stands for it if it shows the images."""

    y: Tensor
    version: int
    attached: Tensor | None

    def take_over(self) -> None:
        """Write to the argument what was written to a part of what stands for it, as by `y[0].copy_(...)`."""
        if self.attached is not None and self.attached._version:
            with torch.no_grad():
                self.y.copy_(self.attached)


def version_of(y: Tensor) -> int:
    """How often a tensor was changed; never where it was made in inference mode, out of which it cannot be."""
    return 0 if y.is_inference() else y._version


def may_show(y: Any, x: Tensor) -> bool:
    """Whether it is a tensor without a gradient, and of the shape of images: at most `TIMES` as many."""
    if not isinstance(y, Tensor) or y.ndim != 4 or not y.is_floating_point():
        return False
    if y.requires_grad or isinstance(y, torch.nn.Parameter):
        return False
    return 0 < len(y) <= TIMES * len(x) and y.shape[1] in (*CHANNELS, x.shape[1]) and min(y.shape[2:]) >= SMALLEST


def faint(x: Tensor) -> bool:
    """Whether images are noise, or of one colour, of which too little is to be seen: their blurred copies explain less
    than half of them.
    """
    height, width = x.shape[2:]
    small = part(x, None, ((height + 1) // 2, (width + 1) // 2))
    return colour_map(part(small, None, (height, width)), x)[0] < EXPLAINED


def row_by_row(x: Tensor, y: Tensor, side: int | None) -> bool:
    """Whether each image explains its own row, as where contrast is equalised, though no one map of colours does."""
    alone = [view_of(p, q, side).explained for p, q in zip(x.split(1), y.split(1), strict=True)]
    return sum(alone) / len(alone) >= EXPLAINED


def view_of(x: Tensor, y: Tensor, side: int | None) -> View:
    """How far a part of x explains y."""
    explained, colours = colour_map(part(x, side, y.shape[2:]), y)
    return View(explained, side, colours)


def best_view(x: Tensor, y: Tensor) -> View:
    """What y shows of x, of shapes (B, K, h, w) and (B, C, H, W): all of it, or a square in the middle."""

    def best(sides: Iterable[int | None]) -> View:
        return max((view_of(x, y, side) for side in sides), key=lambda view: view.explained)

    longest = min(x.shape[2:])
    step = max(longest // (4 * SHARES), 1)
    found = best([None, *range(longest, 3 * longest // 4, -step)])
    if step == 1 or found.side is None:
        return found
    return best(range(min(found.side + step, longest), found.side - step, -1))


def part(x: Tensor, side: int | None, size: Shape) -> Tensor:
    """All of the images, or a square in their middle, resized to `size`: bilinear, averaging where it makes smaller."""
    if side is not None:
        top, left = ((length - side) // 2 for length in x.shape[2:])
        x = x[:, :, top : top + side, left : left + side]
    return x if x.shape[2:] == size else interpolate(x, size=size, mode="bilinear", antialias=True)


def colour_map(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The matrix A of least squares y = A x + b over all pixels, and the share of the variance of y that it explains.

    Args:
        x: shape (B, C, H, W).
        y: shape (B, K, H, W).

    Returns:
        The share, in [0, 1], and A, shape (K, C).
    """
    p, q = (t.transpose(0, 1).flatten(1).double() for t in (x, y))
    p, q = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
    colours = (q @ p.mT) @ torch.linalg.pinv(p @ p.mT, hermitian=True)
    left, whole = (q - colours @ p).square().sum(), q.square().sum()
    return (1 - left / whole).nan_to_num(0.0).item(), colours.to(y.dtype)


def grey(x: Tensor) -> Tensor:
    """Rows of unit length whose products are the correlations of small grey pictures, shape (B, 256)."""
    small = part(x.mean(dim=1, keepdim=True), None, (GREY, GREY)).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred / length.clamp(min=1e-12)
