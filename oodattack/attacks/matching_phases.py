"""When matching changes from L-BFGS to a burst of momentum and back, and when a row is given up.

The burst is the heavy ball of Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, on
normalised gradients with a geometrically falling step. The way the two are joined is our own.
"""

import torch
from torch import Tensor

from oodattack.attack import STOPPED
from oodattack.attacks.matching_cone import Cone
from oodattack.attacks.matching_state import State
from oodattack.threat import ThreatModel

WINDOW, SLOW = 20, 0.9  # a row stalls when this many queries leave more than this share of its loss
FAILS = 10  # a row stalls when this many trial points in a row were no better
BURST = 150  # queries of the first burst
LONG = 0.85  # share of the queries left that a burst takes where the ball binds, if that is more
FAR, NEAR = 2.0, 0.1  # first step of a burst as a share of eps: where the ball binds (or is no l2 ball), and inside
FALL_FAR, FALL_NEAR = 1e-2, 1e-3  # last step of a burst over its first
ROUND = 0.99  # a round was in vain when it leaves more than this share of the loss
FLAT, DEAD = 1e-3, 1e-6  # a projected gradient below these shares of the gradient is small, or as good as zero
BALL, STATIONARY, SMALL = (STOPPED.index(why) for why in ("ball binds", "stationary", "step too small"))


def change_phase(s: State, cone: Cone, threat: ThreatModel, patience: int) -> State:
    """Open the next window, begin or end a burst, or give a row up."""
    age, burst = s.age + 1, (s.burst - 1).clamp(min=0)
    over = (s.burst > 0) & (burst == 0)
    quiet = (s.burst == 0) & ((age >= WINDOW) | (s.fails >= FAILS))
    stalled = quiet & ((s.loss > SLOW * s.opened) | (s.fails >= FAILS))
    vain = (s.vain + 1).where((s.rounds > 0) & (s.loss > ROUND * s.entered), 0).where(stalled, s.vain)
    slope, steepness = (torch.linalg.vector_norm(v, dim=1) for v in (cone.down, s.grad))
    dead = (slope <= DEAD * steepness) & ~(cone.pull > 0)  # a burst would have no direction; on the ball it has
    flat = slope <= FLAT * steepness
    far = cone.bound | (threat.norm != "l2")
    hopeless = stalled & (dead | (vain >= torch.where(far, 1, patience)))  # a long burst in vain is proof enough
    why = torch.full_like(s.stopped, SMALL).masked_fill(flat, STATIONARY).masked_fill(cone.bound, BALL)
    begins = stalled & ~hopeless
    whole = (BURST * 2 ** s.rounds.clamp(max=20)).where(~far, max(BURST, round(LONG * s.left)))
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
        fall=torch.where(far, FALL_FAR, FALL_NEAR).to(s.fall.dtype).where(begins, s.fall),
        rounds=s.rounds + begins.long(),
        vain=vain,
        entered=s.loss.where(begins, s.entered),
        stopped=why.where(hopeless, s.stopped),
        left=s.left - 1,
    )


def burst_length(s: State) -> Tensor:
    """Length of the next step of a burst, (B, 1): falls geometrically from `first` to `fall` times that."""
    return (s.first * s.fall ** (1 - s.burst / s.whole)).to(s.base.dtype)[:, None]
