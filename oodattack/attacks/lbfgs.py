"""Matching by limited-memory BFGS inside ball and box, with bursts of momentum where that stalls.

Curvature from `matching_curvature`, binding constraints from `matching_cone`, changes of phase from `matching_phases`;
what a row remembers is in `matching_state`.
"""

import math

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.matching_cone import Cone, tangent_cone
from oodattack.attacks.matching_curvature import quasi_newton
from oodattack.attacks.matching_phases import burst_length, change_phase
from oodattack.attacks.matching_state import State, first_state
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

ARMIJO, DESCENT = 1e-4, 1e-3  # least decrease against the slope; least cosine with steepest descent
REACH = 8.0  # longest step, in Polyak steps
MASS = 0.5  # share of the velocity that stays, in a burst


def lbfgs(*, memory: int = 30, stretch: float = 3.0, patience: int = 2) -> Attack:
    """Minimise -value, which is >= 0 and best at 0, as the loss of matching -||f(x) - z||_2^2 is.

    L-BFGS steps in the tangent space of what binds, one trial point a query, halved or less until the Armijo rule
    holds. A row that stalls gets a burst of heavy ball from its best point, then L-BFGS anew: one round. Where the ball
    binds, a burst begins with steps of 2 eps and takes most of the queries left: long, slow cooling finds deeper
    valleys. Elsewhere it begins with eps / 10, and the next one is twice as long. A row stops once a round has left its
    loss as it was, or `patience` rounds in a row where the ball does not bind. It says why: "ball binds", "stationary"
    (the gradient vanishes, or the box holds it) or "step too small" (a kink: no point near by is better, though the
    gradient is not small).

    Args:
        memory: pairs a row, >= 1; two copies of a row's input each.
        stretch: of the initial inverse Hessian, >= 1. ReLU networks are full of kinks, which make curvature look too
            large, and steps too short: with 1 the loss after 50 passes is about twice as high.
        patience: rounds in vain inside the ball before a row is given up, >= 1.

    Raises:
        ValueError: an argument is out of range.
    """
    if memory < 1:
        raise ValueError(f"`memory` must be >= 1, got {memory}. Ten to thirty pairs are usual.")
    if not 1 <= stretch < math.inf:
        raise ValueError(f"`stretch` must be >= 1 and finite, got {stretch}. Write 1 for the textbook's L-BFGS.")
    if patience < 1:
        raise ValueError(f"`patience` must be >= 1, got {patience}. One round in vain is the least that tells.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        first = threat.project(first_point(x, threat, random), x)
        return first, first_state(first, memory, steps)

    def step(seen: Seen, x: Tensor, threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        point, centre = seen.x_adv.flatten(1), x.flatten(1)
        grad = -seen.grad.flatten(1)
        s = _note(s, point, -seen.value.to(x.dtype), grad)
        at_base = tangent_cone(s.base, centre, s.grad, eps=threat.eps, norm=threat.norm)
        moving = _bursting(s)  # these rows went on from `point`, not from the best one
        s = change_phase(s, at_base, threat, patience)
        newton = s.base + s.share[:, None] * _newton_step(s, at_base, threat.eps, stretch)
        at = point.where(moving, s.base)
        cone = tangent_cone(at, centre, grad.where(moving, s.grad), eps=threat.eps, norm=threat.norm)
        velocity = MASS * s.velocity + (1 - MASS) * cone.down / _norm(cone.down)
        x_next = (at + burst_length(s) * velocity).where(_bursting(s), newton)
        x_next = s.base.where((s.stopped > 0)[:, None], x_next)  # the last word of a row that stops is its best
        return x_next.view_as(x), s._replace(velocity=velocity.where(_bursting(s), 0))

    return Attack(start, step)


def _note(s: State, point: Tensor, loss: Tensor, grad: Tensor) -> State:
    """Judge the point just seen: a new base, or a shorter step next time. Either way it tells about curvature."""
    moved, bend = point - s.base, grad - s.grad
    slope = (s.grad * moved).sum(dim=1)
    first = s.loss.isinf()
    took = first | (loss <= s.loss + ARMIJO * slope.clamp(max=0))
    parabola = -slope / (2 * (loss - s.loss - slope)).clamp(min=torch.finfo(loss.dtype).tiny)
    share = torch.ones_like(s.share).where(took, s.share * parabola.nan_to_num(0.5).clamp(0.1, 0.5))
    return s._replace(
        base=point.where(took[:, None], s.base),
        loss=loss.where(took, s.loss),
        grad=grad.where(took[:, None], s.grad),
        s=torch.cat((s.s[:, 1:], moved[:, None]), dim=1),
        y=torch.cat((s.y[:, 1:], bend[:, None]), dim=1),
        known=torch.cat((s.known[:, 1:], (~first & (s.burst == 0) & loss.isfinite())[:, None]), dim=1),
        share=share,
        fails=(s.fails + 1).where(~took, 0),
    )


def _bursting(s: State) -> Tensor:
    """Rows in a burst, (B, 1)."""
    return (s.burst > 0)[:, None]


def _newton_step(s: State, cone: Cone, eps: float, stretch: float) -> Tensor:
    """Quasi-Newton step from the base along what binds, shape (B, D); none longer than `REACH` Polyak steps.

    The Polyak step to a loss of 0 is loss / ||down||; a quadratic has its minimum twice as far.
    """
    polyak = (s.loss[:, None] / _norm(cone.down)).where(s.loss[:, None] > 0, eps / REACH)
    ys = s.y + cone.pull[:, None, None] * s.s  # the ball adds its multiplier to the Lagrangian's curvature
    move, known = quasi_newton(cone.down, cone.along(s.s), cone.along(ys), s.known, stretch=stretch)
    move = cone.along(move[:, None])[:, 0]
    uphill = (move * cone.down).sum(dim=1, keepdim=True) <= DESCENT * _norm(move) * _norm(cone.down)
    gradient_step = polyak * cone.down / _norm(cone.down)
    move = gradient_step.where(uphill | ~known[:, None], move)
    return move * (REACH * polyak / _norm(move)).clamp(max=1)


def _norm(v: Tensor) -> Tensor:
    """Lengths of rows (B, D), shape (B, 1), never zero."""
    size: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return size.clamp(min=torch.finfo(v.dtype).tiny)
