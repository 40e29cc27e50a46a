"""The bounds of each kind of detector, put together from those of its network."""

from collections.abc import Callable
from math import inf, log
from typing import Any

import torch
from torch import Tensor

from oodattack.bounds.affine import Shape
from oodattack.bounds.ball import Ball, Interval
from oodattack.bounds.density_scores import ccu_bounds, density_bounds
from oodattack.bounds.feature_scores import length_bounds
from oodattack.bounds.linear_scores import log_odds_bounds, minus_logsumexp
from oodattack.bounds.network import Network, network, with_head
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.reach import Reach
from oodattack.detectors.linear_head import head_of

OnBall = Callable[[Ball], Interval]  # B rows -> bounds of their scores, shapes (B,)
Prepare = Callable[..., OnBall]  # (detector, shape of an image, deep=...) -> bounds of its scores


def unit(found: Reach, at: int) -> Tensor:
    """The logits themselves, as linear functions: shape (K, K)."""
    return torch.eye(found.values[at].shape[1], dtype=torch.float64, device=found.ball.x.device)


def of_logits(rule: Callable[[Any, Reach, int], Interval]) -> Prepare:
    """Bounds of a score of the logits of `detector.net`."""

    def prepare(detector: Any, image: Shape, *, deep: bool) -> OnBall:
        own = network(detector.net, image, deep=deep)
        return lambda ball: rule(detector, own.on(ball), own.at)

    return prepare


def energy_of(detector: Any, found: Reach, at: int) -> Interval:
    """-T logsumexp(f / T), T = 1 where the detector has none."""
    return minus_logsumexp(found, unit(found, at), at, temperature=getattr(detector, "temperature", 1.0))


def msp_of(_detector: Any, found: Reach, at: int) -> Interval:
    """1 - max softmax, the sigmoid of log-odds."""
    return Interval(*[odds.sigmoid() for odds in log_odds_bounds(found, at)])


def oe_score_of(_detector: Any, found: Reach, at: int) -> Interval:
    """mean f - logsumexp f = -logsumexp(f - mean f)."""
    centred = unit(found, at) - 1 / found.values[at].shape[1]
    return minus_logsumexp(found, centred, at)


def outlier_class_of(_detector: Any, found: Reach, at: int) -> Interval:
    """f_K - logsumexp_{c < K} f_c = -logsumexp_{c < K}(f_c - f_K)."""
    each = unit(found, at)
    return minus_logsumexp(found, each[:-1] - each[-1:], at)


def vim_of(detector: Any, found: Reach, at: int) -> Interval:
    """alpha ||R^T (z - u)|| - logsumexp f, each term by itself."""
    length = length_bounds(found, detector.residual.mT, detector.origin, found.graph.features)
    ends = [detector.alpha * part for part in length]
    rest = minus_logsumexp(found, unit(found, at), at)
    return Interval(ends[0].minimum(ends[1]) + rest.lower, ends[0].maximum(ends[1]) + rest.upper)


def odin(detector: Any, image: Shape, *, deep: bool) -> OnBall:
    """MSP on a ball that holds the preprocessed images too: no pixel moves by more than the magnitude."""
    own, m = network(detector.net, image, deep=deep), detector.magnitude
    longer = m if m == 0 else m * torch.Size(image).numel() ** 0.5

    def bounds(ball: Ball) -> Interval:
        eps = ball.eps + (m if ball.norm == "linf" else longer)
        found = own.on(ball._replace(eps=eps, low=ball.low - m, high=ball.high + m))
        return Interval(*[odds.sigmoid() for odds in log_odds_bounds(found, own.at, temperature=detector.temperature)])

    return bounds


def of_head(head: Callable[[Any, Network], Network]) -> Prepare:
    """Energy of the logits of another head on the features of `detector.net`."""

    def prepare(detector: Any, image: Shape, *, deep: bool) -> OnBall:
        own = head(detector, network(detector.net, image, deep=deep))

        def bounds(ball: Ball) -> Interval:
            found = own.on(ball)
            return minus_logsumexp(found, unit(found, own.at), own.at)

        return bounds

    return prepare


def react(detector: Any, own: Network) -> Network:
    """The head on clipped features."""
    head = head_of(detector.net)
    return with_head(own, head.weight.detach(), _detached(head.bias), clip=detector.clip)


def dice(detector: Any, own: Network) -> Network:
    """The head with some of its weights."""
    head = head_of(detector.net)
    return with_head(own, head.weight.detach() * detector.mask, _detached(head.bias))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def ccu(detector: Any, image: Shape, *, deep: bool) -> OnBall:
    """Densities in closed form; without bounds of the network, its confidence is anything up to 1."""
    classes = int(detector.net.logits(torch.zeros(1, *image).to(detector.inside.sigmas)).shape[1])
    try:
        own = network(detector.net, image, deep=deep)
    except NoBounds:
        own = None

    def bounds(ball: Ball) -> Interval:
        ends = [torch.full_like(ball.eps, end) for end in (-inf, log(classes - 1))]
        odds = Interval(*ends) if own is None else log_odds_bounds(own.on(ball), own.at)
        outside = density_bounds(ball, detector.metric, detector.outside)
        outside = Interval(*[part + detector.log_lambda for part in outside])
        return ccu_bounds(odds, density_bounds(ball, detector.metric, detector.inside), outside, classes)

    return bounds
