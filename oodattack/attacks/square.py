"""Square Attack: Andriushchenko, Croce, Flammarion & Hein, "Square Attack: a query-efficient black-box adversarial
attack via random search", ECCV 2020, arXiv:1912.00049; for l1 in the manner of Croce & Hein, "Mind the Box", ICML 2021,
arXiv:2103.01208.
"""  # noqa: D205

import math
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.starts import wide
from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 iterations; `p_selection` of the authors' code
ORDER = {"l2": 2, "l1": 1}


class State(NamedTuple):
    """The best point of every row; it is the centre of the next proposal."""

    best_x: Tensor  # (B, C, H, W)
    best: Tensor  # (B,)
    steps: int
    t: int


def square(*, p: float = 0.8) -> Attack:
    """Random search over square windows: a proposal that raises a row's loss becomes its point, Alg. 1.

    linf: all pixels of one window move to x + eps or x - eps, a random sign for each channel, Alg. 2. l2 and l1: the
    mass of a second window goes to the first, as a bump eta and its negative side by side, Alg. 3. The first point is
    x plus vertical stripes of +-eps (linf) or a tiling with bumps of norm eps (l2, l1), whether `init` is "ball" or
    "sphere"; with `init = "clean"` it is x.

    Args:
        p: share of the pixels that the first windows cover, in (0, 1]; halved nine times on the way, at fixed shares of
            the queries. 0.8 is AutoAttack's value; it suits a few thousand queries.

    Raises:
        ValueError: `p` is out of range; at the start: the norm is a patch, or `x` is not a batch of images.

    Differs from the paper: for images below 5 pixels a side windows shrink as far as they must; for l1 the formulas of
    Alg. 3 are used with sums in place of sums of squares. Differs from the authors' code: an linf proposal that would
    change nothing has its signs turned instead of drawn again; l2 mass is counted by channel, as in Alg. 3, and is not
    scaled up to eps again after the box has cut it; the tiling covers the whole image.
    """
    if not 0 < p <= 1:
        raise ValueError(f"`p` is a share of the pixels and must be in (0, 1], got {p}. Write 0.8.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        if threat.norm not in ("linf", *ORDER):
            raise ValueError(f"`norm` must be linf, l2 or l1 for square, got {threat.norm!r}. Choose one of them.")
        if x.ndim != 4:
            raise ValueError(f"`x` must have shape (B, C, H, W) for square, got {tuple(x.shape)}. Reshape it.")
        state = State(x, x.new_full((len(x),), -float("inf")), steps, 0)
        if threat.init == "clean":
            return x, state
        first = _stripes(x, random) if threat.norm == "linf" else _tiling(x, random, ORDER[threat.norm])
        return x + threat.eps * first, state

    def step(seen: Seen, x: Tensor, threat: ThreatModel, random: RowRandom, s: State) -> tuple[Tensor, State]:
        better = seen.value > s.best
        best_x = seen.x_adv.where(wide(better, x), s.best_x)
        best = seen.value.to(s.best.dtype).where(better, s.best)
        side = math.sqrt(p * 0.5 ** halvings(s.t, s.steps) * x.shape[2] * x.shape[3])
        propose = _recolour if threat.norm == "linf" else _move_mass
        return propose(best_x, x, threat, random, side), State(best_x, best, s.steps, s.t + 1)

    return Attack(start, step, white_box=False)


def halvings(t: int, steps: int) -> int:
    """How often p has been halved at iteration t of `steps`."""
    return sum(10_000 * t // max(1, steps) > mark for mark in HALVED_AT)


def _recolour(best_x: Tensor, x: Tensor, threat: ThreatModel, random: RowRandom, side: float) -> Tensor:
    """Alg. 2: x +- eps inside one window, the best point elsewhere."""
    inside, _, _ = _window(x, random, min(max(round(side), 1), _widest(x)))
    move = threat.eps * _signs(random, (x.shape[1], 1, 1), x)
    proposed = threat.project((x + move).where(inside, best_x), x)
    same = (proposed == best_x).flatten(1).all(1)  # would spend a query on a known value
    return (x + move.where(~wide(same, x), -move)).where(inside, best_x)


def _move_mass(best_x: Tensor, x: Tensor, threat: ThreatModel, random: RowRandom, side: float) -> Tensor:
    """Alg. 3: the first window gets what both held and what the ball has left, shaped as before plus a bump."""
    order = ORDER[threat.norm]
    width = min(max(round(side), 3) // 2 * 2 + 1, _widest(x))  # odd and at least 3
    first, rows, columns = _window(x, random, width)
    second, _, _ = _window(x, random, width)
    nu, both = best_x - x, first | second
    unused = threat.eps**order - _size(nu.flatten(1)[:, None, :, None], order) ** order
    room = (_size(nu * both, order) ** order + unused.clamp(min=0) / x.shape[1]) ** (1 / order)
    bump = _signs(random, (x.shape[1], 1, 1), x) * _turned(_bump(width, x), random, rows, columns) * first
    old, bump = nu * first, bump / _size(bump, order)
    shape = bump + old / _or_one(_size(old, order))
    size = _size(shape, order)
    shape = torch.where(size > 1e-6, shape / _or_one(size), bump)  # a window of one pixel can cancel out
    return x + nu * ~both + room * shape


def _stripes(x: Tensor, random: RowRandom) -> Tensor:
    """Vertical stripes one pixel wide, +-1 for each channel."""
    return _signs(random, (x.shape[1], 1, x.shape[3]), x).expand_as(x)


def _tiling(x: Tensor, random: RowRandom, order: int) -> Tensor:
    """A grid of bumps, five by five where the image allows, with norm 1 in all."""
    _, c, h, w = x.shape
    side = max(1, min(h, w) // 5)
    i, j = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    bump = _bump(side, x)[i % side][:, j % side], _bump(side, x).T[i % side][:, j % side]
    tiles = (-(-h // side), -(-w // side))
    upright, signs = random.integers(2, (1, *tiles)).bool(), _signs(random, (c, *tiles), x)
    upright, signs = (tile[:, :, i // side][:, :, :, j // side] for tile in (upright, signs))
    delta: Tensor = signs * torch.where(upright, *bump)
    return delta / _size(delta.flatten(1)[:, None, :, None], order)


def _window(x: Tensor, random: RowRandom, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """A square at a random place: its mask (B, 1, H, W), and where a pixel lies in it, (B, H, 1) and (B, 1, W)."""
    h, w = x.shape[2:]
    top, left = random.integers(h - side + 1, (1, 1)), random.integers(w - side + 1, (1, 1))
    rows = torch.arange(h, device=x.device).view(1, h, 1) - top
    columns = torch.arange(w, device=x.device).view(1, 1, w) - left
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return inside[:, None], rows.clamp(0, side - 1), columns.clamp(0, side - 1)


def _turned(bump: Tensor, random: RowRandom, rows: Tensor, columns: Tensor) -> Tensor:
    """The bump or its transpose, laid where the window is, (B, 1, H, W)."""
    upright = random.integers(2, (1, 1)).bool()
    return torch.where(upright, bump[rows, columns], bump.T[rows, columns])[:, None]


def _bump(side: int, x: Tensor) -> Tensor:
    """eta of Alg. 3, (side, side): two half windows, each a pyramid of norm 1, one upwards and one downwards."""
    halves = []
    for height, sign in ((side // 2, 1), (side - side // 2, -1)):
        far = max(height, side) // 2
        i, j = torch.arange(height) - height // 2, torch.arange(side) - side // 2
        ring = torch.maximum(i.abs()[:, None], j.abs()[None])  # distance from the centre
        tails = (torch.arange(1, far + 2, dtype=torch.float64) ** -2).flip(0).cumsum(0).flip(0)
        pyramid = tails[ring]
        halves.append(sign * pyramid / _or_one(torch.linalg.vector_norm(pyramid)))
    return torch.cat(halves).to(x)


def _signs(random: RowRandom, shape: tuple[int, ...], x: Tensor) -> Tensor:
    return (2 * random.integers(2, shape) - 1).to(x)


def _size(delta: Tensor, order: int) -> Tensor:
    """Norm of each channel, (B, C, 1, 1)."""
    size: Tensor = torch.linalg.vector_norm(delta, order, dim=(2, 3), keepdim=True)
    return size


def _or_one(size: Tensor) -> Tensor:
    return size.where(size > 0, 1)


def _widest(x: Tensor) -> int:
    return max(1, min(x.shape[2:]) - 1)
