"""Fast minimum norm: Pintor et al., "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints", 2021.

NeurIPS 2021, arXiv:2102.12827. For the aim "cross": the loss is >= 0 beyond a threshold, the loop keeps the nearest
point there.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.starts import first_point
from oodattack.geometry import DUAL, PROJECT, STEEPEST, RowRandom, free, norm_of, wide
from oodattack.threat import ThreatModel

LAST_GAMMA, LAST_STEP = 0.001, 0.01  # where the annealing ends; the second as a share of the first step


class State(NamedTuple):
    """What a row remembers."""

    radius: Tensor  # (B,) eps of the row, input units
    nearest: Tensor  # (B,) distance of the nearest crossing so far, inf before the first
    t: int
    steps: int


def annealed(first: float, last: float, t: int, steps: int) -> float:
    """Half a cosine from `first` at t = 0 to `last` at t = steps."""
    return last + (first - last) * (1 + math.cos(math.pi * t / max(1, steps))) / 2


def fmn(*, step_size: float = 0.25, gamma: float = 0.05) -> Attack:
    """Steepest ascent in a ball of the row's own radius, smaller beyond the threshold and larger before it; Alg. 1.

    Before the first crossing the radius is (1 + gamma_t) (||delta|| + |value| / ||grad||_dual), the distance to the
    threshold were the loss linear, and at least (1 + gamma_t) times the last one. From then on it is
    min((1 - gamma_t) radius, nearest crossing) beyond the threshold and (1 + gamma_t) radius before it. Then
    delta <- P(delta + alpha_t radius steepest(grad)), P onto the row's ball. gamma_t anneals to 0.001 and alpha_t to
    step_size / 100, each along half a cosine.

    Args:
        step_size: alpha_0 as a share of the row's radius, in (0, 2].
        gamma: gamma_0, in (0, 1): the change of the radius per step.

    Raises:
        ValueError: `step_size` or `gamma` is out of range.

    Differs from the paper: (1) grad is zero at pixels that stand at 0 or 1 and would leave, and the first radius
    overshoots by gamma_t and never falls; else ||delta|| + |value| / ||grad|| creeps up to the threshold of pictures
    with black ground and never meets it. (2) The step is the steepest direction of the norm (for l1, as in the
    paper, grad / ||grad||_2) times a share of the radius, not a length in input units. (3) A radius never exceeds
    `threat.eps`. No l0.
    """
    if not 0 < step_size <= 2:
        raise ValueError(f"`step_size` is a share of the radius and must be in (0, 2], got {step_size}. Try 0.25.")
    if not 0 < gamma < 1:
        raise ValueError(f"`gamma` must be in (0, 1), got {gamma}. The paper takes 0.05.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        none = x.new_zeros(len(x))
        return first_point(x, threat, random), State(none, none + torch.inf, 0, steps)

    def step(seen: Seen, x: Tensor, threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        grad, delta = free(seen.grad, seen.x_adv), seen.x_adv - x
        share = annealed(gamma, LAST_GAMMA, s.t, s.steps)
        crossed, size = seen.value >= 0, norm_of(delta, threat.norm)
        nearest = s.nearest.minimum(size).where(crossed, s.nearest)
        now = s.radius.maximum(size)  # differ at the first point alone
        first = now.maximum(size + linear_gap(seen, grad, threat.norm))
        before = (1 + share) * first.where(nearest.isinf(), now)
        radius = ((1 - share) * now).minimum(nearest).where(crossed, before).clamp(max=threat.eps)
        length = annealed(step_size, LAST_STEP * step_size, s.t, s.steps) * radius
        up = STEEPEST["l2" if threat.norm == "l1" else threat.norm](grad)
        moved = delta + wide(length, x) * up
        return x + _onto(moved, radius, threat.norm), State(radius, nearest, s.t + 1, s.steps)

    return Attack(start, step)


def linear_gap(seen: Seen, grad: Tensor, norm: str) -> Tensor:
    """|value| / ||grad||_dual, shape (B,): distance to the threshold were the loss linear; inf where grad is zero."""
    slope = norm_of(grad, DUAL[norm])
    return (seen.value.abs().to(slope) / slope).where(slope > 0, torch.inf)


def _onto(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Projection of each row (B, ...) onto the ball of its own radius (B,): that onto the unit ball, scaled."""
    scale = wide(radius.clamp(min=torch.finfo(radius.dtype).tiny), delta)
    return scale * PROJECT[norm](delta / scale, 1.0)
