"""Matching by limited-memory BFGS inside ball and box, with bursts of momentum where that stalls.

Curvature from `matching_curvature`, binding constraints from `matching_cone`. The momentum burst is the heavy ball of
Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, on normalised gradients with a
geometrically falling step. The way these are joined is our own.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import STOPPED, Attack, Seen
from oodattack.attacks.matching_cone import Cone, tangent_cone
from oodattack.attacks.matching_curvature import quasi_newton
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

WINDOW, SLOW = 20, 0.9  # a row stalls when this many queries leave more than this share of its loss
FAILS = 10  # a row stalls when this many trial points in a row were no better
BURST, FALL, MASS = 150, 1e-3, 0.8  # queries of the first burst; its last step over its first; velocity that stays
LONG = 0.7  # share of the queries left that a burst takes where the ball binds, if that is more
FAR, NEAR = 2.0, 0.1  # first step of a burst as a share of eps: where the ball binds (or is no l2 ball), and inside
ROUND = 0.99  # a round was in vain when it leaves more than this share of the loss
ARMIJO, DESCENT = 1e-4, 1e-3  # least decrease against the slope; least cosine with steepest descent
REACH = 8.0  # longest step, in Polyak steps
FLAT, DEAD = 1e-3, 1e-6  # a projected gradient below these shares of the gradient is small, or as good as zero
BALL, STATIONARY, SMALL = (STOPPED.index(why) for why in ("ball binds", "stationary", "step too small"))


class State(NamedTuple):
    """What a row remembers. D numbers a row."""

    base: Tensor  # (B, D) best point
    loss: Tensor  # (B,) there, minus the value
    grad: Tensor  # (B, D) there, of the loss
    s: Tensor  # (B, M, D) steps, oldest first
    y: Tensor  # (B, M, D) changes of the gradient
    known: Tensor  # (B, M) pairs filled in
    share: Tensor  # (B,) of the quasi-Newton step that was tried last
    fails: Tensor  # (B,) trial points in a row that were no better
    age: Tensor  # (B,) queries since the window opened
    opened: Tensor  # (B,) loss when the window opened
    burst: Tensor  # (B,) queries of momentum left, 0 during L-BFGS
    velocity: Tensor  # (B, D)
    whole: Tensor  # (B,) queries of the burst in all
    first: Tensor  # (B,) length of the burst's first step
    rounds: Tensor  # (B,) bursts so far
    vain: Tensor  # (B,) rounds in a row that were in vain
    entered: Tensor  # (B,) loss when the last burst began
    stopped: Tensor  # (B,) index of `STOPPED`
    left: int  # queries that the restart has left


def lbfgs(*, memory: int = 30, stretch: float = 3.0, patience: int = 1) -> Attack:
    """Minimise -value, which is >= 0 and best at 0, as the loss of matching -||f(x) - z||_2^2 is.

    L-BFGS steps in the tangent space of what binds, one trial point a query, halved or less until the Armijo rule
    holds. A row that stalls gets a burst of heavy ball from its best point, then L-BFGS anew: one round. Where the ball
    binds, a burst begins with steps of 2 eps and takes most of the queries left: long, slow cooling finds deeper
    valleys. Elsewhere it begins with eps / 10, and the next one is twice as long. A row whose loss `patience` rounds
    leave as it was stops and says why: "ball binds", "stationary" (the gradient vanishes, or the box holds it) or "step
    too small" (a kink: no point near by is better, though the gradient is not small).

    Args:
        memory: pairs a row, >= 1; two copies of a row's input each.
        stretch: of the initial inverse Hessian, >= 1. ReLU networks are full of kinks, which make curvature look too
            large, and steps too short: with 1 the loss after 50 passes is about twice as high.
        patience: rounds in vain before a row is given up, >= 1.

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
        flat, pairs = first.flatten(1), x.flatten(1)[:, None].expand(-1, memory, -1)
        high, none = flat.new_full((len(x),), math.inf), torch.zeros(len(x), dtype=torch.long, device=x.device)
        zero, empty = torch.zeros_like(flat), torch.zeros_like(pairs)
        known = torch.zeros(len(x), memory, dtype=torch.bool, device=x.device)
        share = torch.ones_like(high)
        return first, State(
            flat,
            high,
            zero,
            empty,
            empty,
            known,
            share,
            none,
            none,
            high,
            none,
            zero,
            none + 1,
            share,
            none,
            none,
            high,
            none,
            steps,
        )

    def step(seen: Seen, x: Tensor, threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        point, centre = seen.x_adv.flatten(1), x.flatten(1)
        grad = -seen.grad.flatten(1)
        s = _note(s, point, -seen.value.to(x.dtype), grad)
        at_base = tangent_cone(s.base, centre, s.grad, eps=threat.eps, norm=threat.norm)
        moving = (s.burst > 0)[:, None]  # these rows went on from `point`, not from the best one
        s = _change_phase(s, at_base, threat, patience)
        newton = s.base + s.share[:, None] * _newton_step(s, at_base, threat.eps, stretch)
        at = point.where(moving, s.base)
        cone = tangent_cone(at, centre, grad.where(moving, s.grad), eps=threat.eps, norm=threat.norm)
        velocity = MASS * s.velocity + (1 - MASS) * cone.down / _norm(cone.down)
        x_next = (at + _burst_length(s) * velocity).where((s.burst > 0)[:, None], newton)
        return x_next.view_as(x), s._replace(velocity=velocity.where((s.burst > 0)[:, None], 0))

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


def _change_phase(s: State, cone: Cone, threat: ThreatModel, patience: int) -> State:
    """Open the next window, begin or end a burst, or give a row up."""
    age, burst = s.age + 1, (s.burst - 1).clamp(min=0)
    over = (s.burst > 0) & (burst == 0)
    quiet = (s.burst == 0) & ((age >= WINDOW) | (s.fails >= FAILS))
    stalled = quiet & ((s.loss > SLOW * s.opened) | (s.fails >= FAILS))
    vain = (s.vain + 1).where((s.rounds > 0) & (s.loss > ROUND * s.entered), 0).where(stalled, s.vain)
    slope, steepness = (torch.linalg.vector_norm(v, dim=1) for v in (cone.down, s.grad))
    dead = (slope <= DEAD * steepness) & ~(cone.pull > 0)  # a burst would have no direction; on the ball it has
    hopeless = stalled & ((vain >= patience) | dead)
    flat = slope <= FLAT * steepness
    far = cone.bound | (threat.norm != "l2")
    why = torch.full_like(s.stopped, SMALL).masked_fill(flat, STATIONARY).masked_fill(cone.bound, BALL)
    begins = stalled & ~hopeless
    whole = (BURST * 2**s.rounds).where(~far, max(BURST, round(LONG * s.left)))
    fresh = over | begins
    return s._replace(
        known=s.known & ~fresh[:, None],
        share=s.share.masked_fill(fresh, 1),
        fails=s.fails.masked_fill(fresh, 0),
        age=age.masked_fill(over | quiet, 0),
        opened=s.loss.where(over | quiet, s.opened),
        burst=whole.where(begins, burst),
        whole=whole.where(begins, s.whole),
        first=(threat.eps * torch.where(far, FAR, NEAR)).to(s.first.dtype).where(begins, s.first),
        rounds=s.rounds + begins.long(),
        vain=vain,
        entered=s.loss.where(begins, s.entered),
        stopped=why.where(hopeless, s.stopped),
        left=s.left - 1,
    )


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


def _burst_length(s: State) -> Tensor:
    """Length of the next step of a burst, (B, 1): falls geometrically from `first` to FALL times that."""
    return (s.first * FALL ** (1 - s.burst / s.whole)).to(s.base.dtype)[:, None]


def _norm(v: Tensor) -> Tensor:
    """Lengths of rows (B, D), shape (B, 1), never zero."""
    size: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return size.clamp(min=torch.finfo(v.dtype).tiny)
