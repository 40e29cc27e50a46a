"""Decoupled direction and norm: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 ...", 2018.

CVPR 2019, arXiv:1811.09600. For the aim "cross": the loss is >= 0 beyond a threshold, the loop keeps the nearest point
there.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.fmn import annealed, linear_gap
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom, norm_of, steepest_l2, wide
from oodattack.threat import ThreatModel

LAST_STEP = 0.01  # where the annealing of the step from 1 ends


class State(NamedTuple):
    """What a row remembers."""

    radius: Tensor  # (B,) eps of the row, input units
    t: int
    steps: int


def ddn(*, radius: float = 1.0, gamma: float = 0.05) -> Attack:
    """A gradient step gives the direction; the norm shrinks beyond the threshold and grows before it; Alg. 1. l2 only.

    delta <- delta + alpha_t grad / ||grad||_2, then x_adv = x + radius delta / ||delta||_2 clipped to the box, with
    radius <- (1 - gamma) radius if the last point had crossed and (1 + gamma) radius if not. alpha_t anneals from 1
    to 0.01 along half a cosine. The radius begins at the distance to the threshold were the loss linear at the first
    point, |value| / ||grad||_2, or at `radius` if that is smaller.

    Args:
        radius: largest first one, > 0, input units.
        gamma: in (0, 1).

    Raises:
        ValueError: `radius` or `gamma` is out of range, or the norm of the threat model is not l2.

    Differs from the paper: the first radius is not 1 for every row, since a search that begins behind the inputs that
    the threshold accepts may never find them; ascends the loss that defines the threshold, not cross-entropy; does not
    round to 256 levels; a radius never exceeds `threat.eps`.
    """
    if not radius > 0:
        raise ValueError(f"`radius` must be > 0, got {radius}. The paper takes 1.")
    if not 0 < gamma < 1:
        raise ValueError(f"`gamma` must be in (0, 1), got {gamma}. The paper takes 0.05.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        if threat.norm != "l2":
            raise ValueError(f"`norm` must be l2 for ddn, got {threat.norm!r}. Take fmn, which knows linf and l1 too.")
        return first_point(x, threat, random), State(x.new_zeros(len(x)), 0, steps)

    def step(seen: Seen, x: Tensor, threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        delta = seen.x_adv - x
        before = s.radius if s.t else (norm_of(delta, "l2") + linear_gap(seen, seen.grad, "l2")).clamp(max=radius)
        factor = torch.where(seen.value >= 0, 1 - gamma, 1 + gamma).to(before)
        length = (before * factor).clamp(max=threat.eps)
        delta = delta + annealed(1.0, LAST_STEP, s.t, s.steps) * steepest_l2(seen.grad)
        size = norm_of(delta, "l2")
        scale = (length / size).where(size > 0, 0)
        return x + wide(scale, x) * delta, State(length, s.t + 1, s.steps)

    return Attack(start, step)
