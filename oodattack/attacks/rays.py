"""RayS: Chen & Gu, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", KDD 2020, arXiv:2006.12792.

For the aim "cross". Decision-only: of a query it uses nothing but whether the loss is >= 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.geometry import RowRandom, wide
from oodattack.threat import ThreatModel


class State(NamedTuple):
    """What a row remembers. It either tests a direction at the best radius or bisects along one."""

    signs: Tensor  # (B, ...) best direction, +-1
    tried: Tensor  # (B, ...) direction of the last query
    at: Tensor  # (B,) radius of the last query
    radius: Tensor  # (B,) smallest radius at which `signs` crossed; inf before any did
    low: Tensor  # (B,) largest radius at which it did not
    bisects: Tensor  # (B,) bool
    pieces: Tensor  # (B,) parts that the pixels are cut into, a power of two
    piece: Tensor  # (B,) the next to flip


def rays(*, tolerance: float = 0.003) -> Attack:
    """Flip the sign of one block of pixels; keep the flip if the ray still crosses at the best radius; linf only.

    Points are x + r s with s in {-1, 1}^D, clipped to the box. At first s = 1 and r = `threat.eps`. Then s with one of
    the 2^k blocks of consecutive pixels flipped is tested at the best radius, k = 0, 1, ... up to single pixels, again
    and again; if it crosses, bisection finds its radius. Every test and every halving is a query.

    Args:
        tolerance: bisection ends when its interval is this share of the radius, in (0, 1).

    Raises:
        ValueError: `tolerance` is out of range, or the norm of the threat model is not linf.

    Differs from the paper: the interval of the bisection is relative, not 0.001; before the first crossing, flips are
    kept and radii are drawn in (0, eps), so that the row goes on to new points; after the single pixels it starts again
    with large blocks.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` must be in (0, 1), got {tolerance}. Try 0.003.")

    def start(x: Tensor, threat: ThreatModel, _random: RowRandom, _steps: int) -> tuple[Tensor, State]:
        if threat.norm != "linf":
            raise ValueError(f"`norm` must be linf for rays, got {threat.norm!r}. Take hop-skip-jump for l2.")
        ones, none = torch.ones_like(x), x.new_zeros(len(x))
        return x + threat.eps, State(
            signs=ones,
            tried=ones,
            at=none + threat.eps,
            radius=none + torch.inf,
            low=none,
            bisects=none.bool(),
            pieces=none.long() + 1,
            piece=none.long(),
        )

    def step(seen: Seen, x: Tensor, threat: ThreatModel, random: RowRandom, s: State) -> tuple[Tensor, State]:
        s = _next_flip(_learn(s, seen.value >= 0, tolerance))
        drawn = threat.eps * random.uniform(()).to(s.radius)
        at = ((s.low + s.radius) / 2).where(s.bisects, s.radius).where(s.radius.isfinite(), drawn)
        return x + wide(at, x) * s.tried, s._replace(at=at)

    return Attack(start, step, white_box=False)


def _learn(s: State, crossed: Tensor, tolerance: float) -> State:
    """What the last query says: a better radius, a better direction, or neither."""
    low = s.at.where(s.bisects & ~crossed, s.low).where(s.bisects, 0)  # a new direction bisects from 0
    kept = ~s.bisects & (crossed | s.radius.isinf())
    radius = s.at.where(crossed, s.radius)
    bisects = (s.bisects | crossed) & (radius - low > tolerance * radius)
    signs = s.tried.where(wide(kept, s.signs), s.signs)
    return s._replace(signs=signs, low=low, radius=radius, bisects=bisects)


def _next_flip(s: State) -> State:
    """For the rows that do not bisect: `signs` with the next block flipped."""
    total = s.signs[0].numel()
    pixel = torch.arange(total, device=s.signs.device)
    block = pixel * s.pieces.clamp(max=total).view(-1, 1) // total == s.piece.view(-1, 1)
    flipped = s.signs * (1 - 2 * block.view_as(s.signs).to(s.signs))
    tried = s.signs.where(wide(s.bisects, s.signs), flipped)
    piece = s.piece + (~s.bisects).long()
    over = piece >= s.pieces.clamp(max=total)
    pieces = (2 * s.pieces).where(over, s.pieces)
    return s._replace(tried=tried, piece=piece.where(~over, 0), pieces=pieces.where(pieces < 2 * total, 1))
