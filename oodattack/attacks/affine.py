"""Rotations and translations: Engstrom et al., "Exploring the Landscape of Spatial Robustness", arXiv:1712.02779."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from oodattack.attack import Attack, Seen, unseen
from oodattack.geometry import RowRandom, wide
from oodattack.threat import ThreatModel

DEGREES, SHIFT = 30.0, 0.1  # the paper's budget, the latter a share of the side
GRID = (31, 5, 5)  # the paper's grid: rotations, translations across and down
FIRST_WIDTH, LAST_WIDTH = 0.5, 0.02  # of a refinement, as a share of the cube's half side

Numbers = Callable[[Tensor, Tensor], Tensor]  # clean inputs (B, ...), numbers in [-1, 1] (B, D) -> inputs (B, ...)


class State(NamedTuple):
    """What a row remembers of its search."""

    numbers: Tensor  # (B, D) in [-1, 1], the point that was sent
    best_numbers: Tensor  # (B, D)
    best: Tensor  # (B,)
    steps: int
    t: int


def affine(*, limit: float) -> Attack:
    """Worst of many rotations and translations, each up to `limit` times 30 degrees and 10 % of the side.

    With 775 queries beside the clean one the paper's grid (31 rotations, 5 x 5 translations) comes first and the rest
    refines the best; with fewer, half are drawn uniformly and half refine. Black box. Bilinear; what comes in from
    outside is 0.

    Args:
        limit: share of the paper's budget, >= 0; 1 allows 30 degrees and 10 %, 0 leaves the image (up to rounding).

    Raises:
        ValueError: `limit` is negative.

    Differs from the paper: the refinement; translations are not rounded to pixels.
    """
    if not limit >= 0:
        raise ValueError(f"`limit` must be >= 0, got {limit}. Write 1 for 30 degrees and 10 % of the side.")

    def move(x: Tensor, numbers: Tensor) -> Tensor:
        angle = numbers[:, 0].to(x) * limit * math.radians(DEGREES)
        shift = 2 * SHIFT * limit * numbers[:, 1:].to(x)  # the grid spans 2
        return grid_sample(x, turned(x, angle, shift), align_corners=False)

    return search_cube(move, 3, GRID)


def turned(x: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Sampling grid (B, H, W, 2) of a rotation by `angle` (B,), radians, then a `shift` (B, 2) in grid units."""
    cos, sin, tall = angle.cos(), angle.sin(), x.shape[2] / x.shape[3]
    across = torch.stack([cos, -sin * tall, shift[:, 0]], dim=1)
    down = torch.stack([sin / tall, cos, shift[:, 1]], dim=1)
    return affine_grid(torch.stack([across, down], dim=1), list(x.shape), align_corners=False)


def search_cube(distort: Numbers, dims: int, grid: tuple[int, ...] = ()) -> Attack:
    """Black-box search for the numbers in [-1, 1]^D whose distorted input has the largest loss.

    The grid, if it fits into the queries, or uniform draws for half of them; then the best so far plus normal noise
    whose width falls geometrically.

    Args:
        distort: (clean inputs, numbers (B, D)) -> inputs. Rows must not influence one another.
        dims: D.
        grid: points along each of the D numbers.
    """
    lattice = _lattice(grid)

    def propose(x: Tensor, random: RowRandom, s: State) -> tuple[Tensor, State]:
        in_grid = 0 < len(lattice) <= s.steps
        wide_steps = len(lattice) if in_grid else (s.steps + 1) // 2
        if in_grid and s.t < wide_steps:
            numbers = lattice[s.t].to(s.numbers).expand(len(x), -1)
        elif s.t < wide_steps:
            numbers = 2 * random.uniform((dims,)).to(s.numbers) - 1
        else:
            done = (s.t - wide_steps) / max(s.steps - wide_steps - 1, 1)
            width = FIRST_WIDTH * (LAST_WIDTH / FIRST_WIDTH) ** done
            numbers = (s.best_numbers + width * random.normal((dims,)).to(s.numbers)).clamp(-1, 1)
        return distort(x, numbers), s._replace(numbers=numbers, t=s.t + 1)

    def start(x: Tensor, _threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        zero = x.new_zeros(len(x), dims)
        return propose(x, random, State(zero, zero, unseen(x), steps, 0))

    def step(seen: Seen, x: Tensor, _threat: ThreatModel, random: RowRandom, s: State) -> tuple[Tensor, State]:
        value = seen.value.to(s.best.dtype)
        better = value > s.best
        best_numbers = s.numbers.where(wide(better, s.numbers), s.best_numbers)
        return propose(x, random, s._replace(best_numbers=best_numbers, best=value.where(better, s.best)))

    return Attack(start, step, white_box=False)


def _lattice(grid: tuple[int, ...]) -> Tensor:
    """All combinations of evenly spaced numbers in [-1, 1], shape (product of `grid`, D); none for an empty grid."""
    if not grid:
        return torch.empty(0, 0)
    lines = [torch.linspace(-1, 1, points, dtype=torch.float64) for points in grid]
    return torch.cartesian_prod(*lines)
