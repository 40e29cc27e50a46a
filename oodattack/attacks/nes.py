"""Natural evolution strategies: Ilyas, Engstrom, Athalye & Lin, "Black-box Adversarial Attacks with Limited Queries and
Information", ICML 2018, arXiv:1804.08598.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom, uphill, wide
from oodattack.threat import ThreatModel


class State(NamedTuple):
    """The point, the pair of probes that is under way, the sums over earlier pairs, and averages of past estimates."""

    place: int  # of the query that is on its way: 0 the point, odd the probe ahead of a pair, even the one behind
    centre: Tensor  # (B, ...) the point, as it was seen
    u: Tensor  # (B, ...) direction of the pair
    ahead: Tensor  # (B, ...) the probe at + sigma u, as it was seen
    ahead_value: Tensor  # (B,)
    slopes: Tensor  # (B, ...) sum of (value difference) d, where d is the way between the two probes
    moved: Tensor  # (B, ...) sum of d^2
    asked: Tensor  # (B, ...) sum of u^2
    mean: Tensor  # (B, ...) average of the estimates
    square: Tensor  # (B, ...) average of their squares
    pairs: int  # in the sums
    updates: int
    steps: int
    t: int


Draw = Callable[[RowRandom, Tensor], Tensor]
Ascend = Callable[[Tensor, ThreatModel, State], tuple[Tensor, State]]  # estimate -> what to add, in units of `reach`


def nes(*, samples: int = 10, sigma: float = 0.001, step_size: float = 0.5, momentum: float = 0.9) -> Attack:
    """Steepest ascent on an estimated gradient, g = 1 / (2 n sigma) sum_k (f(x + sigma u_k) - f(x - sigma u_k)) u_k.

    u_k is standard normal. The step is step_size * eps * steepest(m) with m <- momentum m + (1 - momentum) g; it falls
    linearly to zero over the queries. A step costs 2 n + 1 queries: the last one measures the new point.

    Args:
        samples: n, pairs of probes for one step, >= 1.
        sigma: length of a probe per pixel, > 0, input units. Scores that are rounded need a larger one.
        step_size: first step as a share of eps (for a patch: of the range of a pixel), in (0, 2].
        momentum: in [0, 1).

    Raises:
        ValueError: a number is out of range.

    Differs from the paper: where ball and box cut a probe short, the way it really went is used; steps shrink by plan
    instead of on plateaus of the loss; a row whose new point has no finite value goes back; other norms than linf.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1), got {momentum}. Write 0.9.")

    def ascend(estimate: Tensor, threat: ThreatModel, s: State) -> tuple[Tensor, State]:
        mean = torch.lerp(estimate, s.mean, momentum)
        return uphill(mean, s.centre, threat.norm), s._replace(mean=mean)

    def draw(random: RowRandom, x: Tensor) -> Tensor:
        return random.normal(x.shape[1:]).to(x)

    return probing(draw, ascend, samples=samples, sigma=sigma, step_size=step_size)


def probing(draw: Draw, ascend: Ascend, *, samples: int, sigma: float, step_size: float) -> Attack:
    """An attack that spends its queries on pairs of probes around a point, and steps when it has `samples` pairs.

    Args:
        draw: directions u, shape of `x`.
        ascend: what to make of an estimate of the gradient.
        samples: pairs for one step, >= 1.
        sigma: length of a probe, > 0, input units.
        step_size: first step as a share of eps (for a patch: of the range of a pixel), in (0, 2].

    Raises:
        ValueError: a number is out of range.
    """
    if samples < 1:
        raise ValueError(f"`samples` must be >= 1, got {samples}. It is the number of pairs of probes for one step.")
    if not sigma > 0:
        raise ValueError(f"`sigma` must be > 0, got {sigma}. Give the length of a probe in input units.")
    if not 0 < step_size <= 2:
        raise ValueError(f"`step_size` is a share of eps and must be in (0, 2], got {step_size}. Write 0.25.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        none = torch.zeros_like(x)
        return first_point(x, threat, random), State(
            place=0,
            centre=x,
            u=none,
            ahead=x,
            ahead_value=x.new_zeros(len(x)),
            slopes=none,
            moved=none,
            asked=none,
            mean=none,
            square=none,
            pairs=0,
            updates=0,
            steps=steps,
            t=0,
        )

    def step(seen: Seen, x: Tensor, threat: ThreatModel, random: RowRandom, s: State) -> tuple[Tensor, State]:
        s = (_arrived if s.place == 0 else _ahead if s.place % 2 else _behind)(s, seen)
        s = s._replace(t=s.t + 1)
        last = s.t + 1 == s.steps and s.pairs + s.updates > 0  # goes to a point, not to a probe
        if s.place == 2 * samples or last:
            length = step_size * threat.reach * (1 - (s.t - 1) / s.steps)
            direction, s = ascend(_estimate(s, sigma), threat, s)
            none = torch.zeros_like(x)
            s = s._replace(place=0, slopes=none, moved=none, asked=none, pairs=0, updates=s.updates + 1)
            return s.centre + length * direction, s
        s = s._replace(place=s.place + 1)
        if s.place % 2 == 0:
            return s.centre - sigma * s.u, s
        s = s._replace(u=draw(random, x))
        return s.centre + sigma * s.u, s

    return Attack(start, step, white_box=False)


def _arrived(s: State, seen: Seen) -> State:
    """The point is where it was seen; a row whose value was not finite stays where it was."""
    return s._replace(centre=seen.x_adv.where(wide(seen.value.isfinite(), s.centre), s.centre))


def _ahead(s: State, seen: Seen) -> State:
    """The first probe of a pair."""
    return s._replace(ahead=seen.x_adv, ahead_value=seen.value)


def _behind(s: State, behind: Seen) -> State:
    """Add the finished pair to the sums; a row whose value was not finite adds nothing."""
    rise = (s.ahead_value - behind.value).nan_to_num(0.0, 0.0, 0.0)
    d = s.ahead - behind.x_adv
    return s._replace(
        slopes=s.slopes + wide(rise.to(d.dtype), d) * d,
        moved=s.moved + d.square(),
        asked=s.asked + s.u.square(),
        pairs=s.pairs + 1,
    )


def _estimate(s: State, sigma: float) -> Tensor:
    """sum (rise d) / sum d^2, times the mean of u^2: the formula of `nes` where no probe is cut short, d = 2 sigma u.

    A pixel at a bound can only make one half of the way, in each pair; the quotient undoes that. A pixel that made less
    than half is treated as if it had made half, or noise would be divided by nearly nothing.
    """
    floor = sigma**2 * s.asked
    return s.slopes / s.moved.maximum(floor).where(s.asked > 0, 1) * s.asked / max(1, s.pairs)
