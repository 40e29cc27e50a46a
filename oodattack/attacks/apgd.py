"""Auto-PGD: Croce & Hein, "Reliable Evaluation of Adversarial Robustness ...", ICML 2020, arXiv:2003.01690, Alg. 1."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen, unseen
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom, uphill, wide
from oodattack.threat import ThreatModel


class State(NamedTuple):
    """What a row remembers."""

    length: Tensor  # (B,) step length, input units
    last: Tensor  # (B, ...) previous iterate
    best_x: Tensor  # (B, ...)
    best_grad: Tensor  # (B, ...) gradient at best_x
    best: Tensor  # (B,)
    before: Tensor  # (B,) loss at the previous iterate
    rises: Tensor  # (B,) steps since the last checkpoint that raised the loss
    checked_best: Tensor  # (B,) best at the last checkpoint
    halved: Tensor  # (B,) whether the last checkpoint halved the step
    checkpoints: tuple[int, ...]
    t: int


def checkpoints(steps: int) -> tuple[int, ...]:
    """w_j = ceil(p_j * steps), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06); section 3.1."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return tuple(sorted({math.ceil(round(p * steps, 9)) for p in shares if p <= 1}))


def apgd(*, rho: float = 0.75, momentum: float = 0.75) -> Attack:
    """Steps of 2 eps with momentum; at checkpoints a row that stalls goes back to its best point with half the step.

    z = P(x_t + length * steepest(grad)), x_{t+1} = P(x_t + momentum (z - x_t) + (1 - momentum)(x_t - x_{t-1})).
    A row stalls when (condition 1) fewer than rho of its steps since the last checkpoint raised the loss, or
    (condition 2) the step was not halved at the last checkpoint and the best loss has not risen since.

    Args:
        rho: in (0, 1), share of condition 1.
        momentum: alpha of the paper, in (0, 1].

    Differs from the paper: the loss is any score, not a margin of class logits; for l1 the step direction is SLIDE's
    one, with the walls of the box in mind, not the adaptive sparsity of Croce & Hein 2021; for a patch the range of a
    pixel, 1, takes the place of eps.
    """

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        x_adv = threat.project(first_point(x, threat, random), x)
        low = unseen(x)
        none = torch.zeros_like(low)
        return x_adv, State(
            length=x.new_full((len(x),), 2 * threat.reach),
            last=x_adv,
            best_x=x_adv,
            best_grad=torch.zeros_like(x),
            best=low,
            before=low,
            rises=none,
            checked_best=low,
            halved=none.bool(),
            checkpoints=checkpoints(steps),
            t=0,
        )

    def step(seen: Seen, x: Tensor, threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        s = _seen(s, seen.x_adv, seen.value.to(s.best.dtype), seen.grad)
        x_t, grad = seen.x_adv, seen.grad
        if s.t > 0 and s.t in s.checkpoints:
            s = _checked(s, rho)
            x_t, grad = s.best_x.where(wide(s.halved, x), x_t), s.best_grad.where(wide(s.halved, x), grad)
        last = s.last if s.t else None
        x_next = with_momentum(x_t, last, wide(s.length, x) * uphill(grad, x_t, threat.norm), x, threat, momentum)
        return x_next, s._replace(last=x_t, t=s.t + 1)

    return Attack(start, step)


def with_momentum(
    x_t: Tensor, last: Tensor | None, change: Tensor, x: Tensor, threat: ThreatModel, momentum: float
) -> Tensor:
    """x_t + momentum (z - x_t) + (1 - momentum)(x_t - last) for z = P(x_t + change); z itself without a last point."""
    z = threat.project(x_t + change, x)
    return z if last is None else x_t + momentum * (z - x_t) + (1 - momentum) * (x_t - last)


def _seen(s: State, x_adv: Tensor, value: Tensor, grad: Tensor) -> State:
    """Keep the better point, and count a step that raised the loss."""
    better = value > s.best
    return s._replace(
        best=value.where(better, s.best),
        best_x=x_adv.where(wide(better, x_adv), s.best_x),
        best_grad=grad.where(wide(better, x_adv), s.best_grad),
        rises=s.rises + (value > s.before) * (s.t > 0),
        before=value,
    )


def _checked(s: State, rho: float) -> State:
    """At a checkpoint: halve the step of the rows that stall, see `apgd`."""
    since = s.t - max(w for w in s.checkpoints if w < s.t)
    stuck = (s.rises < rho * since) | (~s.halved & (s.checked_best >= s.best))  # conditions 1 and 2
    return s._replace(
        length=(s.length / 2).where(stuck, s.length),
        rises=torch.zeros_like(s.rises),
        halved=stuck,
        checked_best=s.best,
    )
