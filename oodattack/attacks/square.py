"""Square Attack: Andriushchenko, Croce, Flammarion & Hein, "Square Attack: a query-efficient black-box adversarial
attack via random search", ECCV 2020, arXiv:1912.00049; for l1 in the manner of Croce & Hein, "Mind the Box", ICML 2021,
arXiv:2103.01208.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen, unseen
from oodattack.attacks.square_bumps import channel_norm, eta, or_one, random_signs, stripes, tiling, turned, window
from oodattack.geometry import RowRandom, wide
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
        state = State(x, unseen(x), steps, 0)
        if threat.init == "clean":
            return x, state
        first = stripes(x, random) if threat.norm == "linf" else tiling(x, random, ORDER[threat.norm])
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
    inside, _, _ = window(x, random, min(max(round(side), 1), _widest(x)))
    move = threat.eps * random_signs(random, (x.shape[1], 1, 1), x)
    proposed = threat.project((x + move).where(inside, best_x), x)
    same = (proposed == best_x).flatten(1).all(1)  # would spend a query on a known value
    return (x + move.where(~wide(same, x), -move)).where(inside, best_x)


def _move_mass(best_x: Tensor, x: Tensor, threat: ThreatModel, random: RowRandom, side: float) -> Tensor:
    """Alg. 3: the first window gets what both held and what the ball has left, shaped as before plus a bump."""
    order = ORDER[threat.norm]
    width = min(max(round(side), 3) // 2 * 2 + 1, _widest(x))  # odd and at least 3
    first, rows, columns = window(x, random, width)
    second, _, _ = window(x, random, width)
    nu, both = best_x - x, first | second
    unused = threat.eps**order - channel_norm(nu.flatten(1)[:, None, :, None], order) ** order
    room = (channel_norm(nu * both, order) ** order + unused.clamp(min=0) / x.shape[1]) ** (1 / order)
    bump = random_signs(random, (x.shape[1], 1, 1), x) * turned(eta(width, x), random, rows, columns) * first
    old, bump = nu * first, bump / channel_norm(bump, order)
    shape = bump + old / or_one(channel_norm(old, order))
    size = channel_norm(shape, order)
    shape = torch.where(size > 1e-6, shape / or_one(size), bump)  # a window of one pixel can cancel out
    return x + nu * ~both + room * shape


def _widest(x: Tensor) -> int:
    return max(1, min(x.shape[2:]) - 1)
