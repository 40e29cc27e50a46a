"""HopSkipJump: Chen et al., "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", S&P 2020, arXiv:1904.02144.

For the aim "cross". Decision-only: of a query it uses nothing but whether the loss is >= 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.geometry import STEEPEST, RowRandom, norm_of, steepest_l2, wide, widest
from oodattack.threat import ThreatModel

FIND, BISECT, ESTIMATE, JUMP = range(4)  # what a row's last query was for
HALVINGS = 12  # of a jump that does not cross, before the direction is estimated anew
COARSEST = 1e-3  # of the bisection, share of the way from x
FINEST, SHORTEST = 4, 8  # of the bisection and of a probe per pixel, in roundings of a number next to 1


class State(NamedTuple):
    """What a row remembers. Rows are in phases of their own."""

    phase: Tensor  # (B,)
    asked: Tensor  # (B,) queries in this phase
    turn: Tensor  # (B,) t of Algorithm 2, from 1
    edge: Tensor  # (B, ...) crossing point: what bisection starts from, and then its result
    low: Tensor  # (B,) share of the way from x to `edge`; not crossed
    high: Tensor  # (B,) and crossed
    total: Tensor  # (B, ...) sum of the perturbations tried
    signed: Tensor  # (B, ...) the same with a minus where it did not cross
    balance: Tensor  # (B,) how many crossed less how many did not
    up: Tensor  # (B, ...) direction of the jump
    length: Tensor  # (B,) of the jump
    order: Tensor  # (B, n) numbers of the images to begin with, the nearest one first


def hop_skip_jump(*, samples: int = 100, images: Tensor | None = None) -> Attack:
    """Walk along the threshold: bisect to it, estimate its normal from decisions, jump along that; again. Alg. 2.

    (1) Take the nearest of `images`, then the next, then uniform pictures, as far as the ball allows, until one
    crosses. (2) Bisect between x and the crossing point: along the line for l2, in shrinking cubes around x for linf
    (Alg. 1). (3) Query edge + delta u_b for samples * sqrt(t) random unit vectors u_b; the normal is the mean of
    (phi_b - mean phi) u_b, where phi_b is 1 or -1 as the point crossed or not. (4) Jump length ||edge - x|| / sqrt(t)
    along it, halved until the point crosses. To 2.

    Args:
        samples: queries of the first estimate, >= 2.
        images: of the other side, shape (n, ...), n >= 1: ID images, for OOD rows. None: noise alone.

    Raises:
        ValueError: `samples` is out of range, or the norm of the threat model is l1.

    Differs from the paper: for both norms delta = ||edge - x||_2 / D, at most a tenth of that distance, and bisection
    ends at a share D^(-3/2), at most 0.001, of the way; neither is so short that rounding would hide it (in float32
    that begins to matter at 3 x 74 x 74); a jump is given up after 12 halvings; u_b are normal vectors for linf too.
    """
    if samples < 2:
        raise ValueError(f"`samples` must be >= 2, got {samples}. The paper takes 100.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, _steps: int) -> tuple[Tensor, State]:
        if threat.norm not in ("linf", "l2"):
            raise ValueError(f"`norm` must be linf or l2 for hop-skip-jump, got {threat.norm!r}. Take fmn for l1.")
        none, flat = x.new_zeros(len(x)), torch.zeros_like(x)
        near = none.long()[:, None][:, :0]
        if images is not None:
            near = torch.cdist(widest(x.flatten(1)), widest(images.to(x.device).flatten(1))).argsort(dim=1)
        state = State(
            phase=none.long() + FIND,
            asked=none.long(),
            turn=none.long() + 1,
            edge=x,
            low=none,
            high=none + 1,
            total=flat,
            signed=flat,
            balance=none,
            up=flat,
            length=none,
            order=near,
        )
        return _first(state, images, random.uniform(x.shape[1:]).to(x)), state

    def step(seen: Seen, x: Tensor, threat: ThreatModel, random: RowRandom, s: State) -> tuple[Tensor, State]:
        crossed = seen.value >= 0
        was = s.phase
        s = s._replace(asked=s.asked + 1)
        s = _bisected(s, was == BISECT, crossed, x, threat.norm)
        s = _estimated(s, was == ESTIMATE, crossed, seen.x_adv, x, threat.norm, samples)
        s = _landed(s, (was == FIND) | (was == JUMP), crossed, seen.x_adv)
        return _ask(s, x, threat.norm, random, images), s

    return Attack(start, step, white_box=False)


def _bisected(s: State, rows: Tensor, crossed: Tensor, x: Tensor, norm: str) -> State:
    """Halve the interval; where it is short enough, its crossing end is the edge."""
    middle = (s.low + s.high) / 2
    low, high = middle.where(rows & ~crossed, s.low), middle.where(rows & crossed, s.high)
    share = max(min(COARSEST, x[0].numel() ** -1.5), FINEST * torch.finfo(x.dtype).eps)
    done = rows & (high - low <= share * high)
    edge = _between(x, s.edge, high, norm).where(wide(done, x), s.edge)
    return _enter(s._replace(low=low, high=high, edge=edge), done, ESTIMATE)


def _estimated(s: State, rows: Tensor, crossed: Tensor, x_adv: Tensor, x: Tensor, norm: str, samples: int) -> State:
    """Add a perturbation to the sums, as the box left it; after enough of them, the direction and length of a jump."""
    u = ((x_adv - s.edge) / wide(_reach(s.edge, x), x)).where(wide(rows, x), 0)
    sign = (2 * crossed.to(x) - 1).where(rows, 0)
    s = s._replace(total=s.total + u, signed=s.signed + wide(sign, x) * u, balance=s.balance + sign)
    done = rows & (s.asked >= (samples * s.turn.sqrt()).floor())
    mean = s.balance / s.asked
    normal = s.signed - wide(mean, x) * s.total
    normal = (wide(mean, x) * s.total).where(wide(mean.abs() == 1, x), normal)
    up = STEEPEST[norm](normal).where(wide(done, x), s.up)
    length = (norm_of(s.edge - x, norm) / s.turn.to(x).sqrt()).where(done, s.length)
    return _enter(s._replace(up=up, length=length, turn=s.turn + done), done, JUMP)


def _landed(s: State, rows: Tensor, crossed: Tensor, x_adv: Tensor) -> State:
    """Bisect from a first point or a jump that crossed; halve a jump that did not, and give it up in the end."""
    hit, short = rows & crossed, rows & ~crossed & (s.phase == JUMP)
    s = s._replace(
        edge=x_adv.where(wide(hit, x_adv), s.edge),
        low=s.low.where(~hit, 0),
        high=s.high.where(~hit, 1),
        length=(s.length / 2).where(short, s.length),
    )
    return _enter(_enter(s, hit, BISECT), short & (s.asked >= HALVINGS), ESTIMATE)


def _enter(s: State, rows: Tensor, phase: int) -> State:
    """Put rows into a phase, at its beginning."""
    keep = wide(~rows | (phase != ESTIMATE), s.edge)
    return s._replace(
        phase=s.phase.masked_fill(rows, phase),
        asked=s.asked.masked_fill(rows, 0),
        total=s.total.where(keep, 0),
        signed=s.signed.where(keep, 0),
        balance=s.balance.where(keep.view(-1), 0),
    )


def _ask(s: State, x: Tensor, norm: str, random: RowRandom, images: Tensor | None) -> Tensor:
    """The point that each row queries next."""
    noise = random.normal(x.shape[1:]).to(x)
    asked = {
        FIND: _first(s, images, torch.special.ndtr(noise)),  # uniform in [0, 1]
        BISECT: _between(x, s.edge, (s.low + s.high) / 2, norm),
        ESTIMATE: s.edge + wide(_reach(s.edge, x), x) * steepest_l2(noise),
        JUMP: s.edge + wide(s.length, x) * s.up,
    }
    point = x
    for phase, own in asked.items():
        point = own.where(wide(s.phase == phase, x), point)
    return point


def _first(s: State, images: Tensor | None, noise: Tensor) -> Tensor:
    """The point that a row which has not crossed yet queries next: an image as long as there are more, then noise."""
    if images is None:
        return noise
    last = s.order.shape[1] - 1
    which = s.order.gather(1, s.asked.clamp(max=last)[:, None]).flatten()
    return images.to(noise)[which].where(wide(s.asked <= last, noise), noise)


def _reach(edge: Tensor, x: Tensor) -> Tensor:
    """Length of the perturbations u_b, (B,)."""
    pixels = x[0].numel()
    shortest = SHORTEST * torch.finfo(x.dtype).eps * pixels**0.5
    return (min(0.1, 1 / pixels) * norm_of(edge - x, "l2")).clamp(min=shortest)


def _between(x: Tensor, far: Tensor, share: Tensor, norm: str) -> Tensor:
    """The point at this share of the way: x + share (far - x) for l2; for linf far, clamped to a cube around x."""
    if norm == "l2":
        return x + wide(share, x) * (far - x)
    size = wide(share * norm_of(far - x, "linf"), x)
    return far.clamp(x - size, x + size)
