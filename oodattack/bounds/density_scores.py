"""Bounds of CCU: Meinke & Hein, "Towards Neural Networks That Provably Know When They Don't Know", ICLR 2020,
arXiv:1909.12180. Its densities have them in closed form."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from oodattack.bounds.ball import Ball, Interval, around, spread
from oodattack.detectors.spherical_mixture import Metric, Mixture, coordinates, distances, stretch


def density_bounds(ball: Ball, metric: Metric, mixture: Mixture) -> Interval:
    """log p on a ball: no centroid comes nearer than d - r, none goes further than d + r.

    Args:
        ball: B rows.
        metric: in which the mixture measures.
        mixture: M components.

    Returns:
        Shapes (B,).
    """
    d, r = distances(coordinates(ball.x, metric), mixture), radius(ball, metric)[:, None]
    s = mixture.sigmas.to(d)
    scale = ball.x[0].numel() * (s.log() + math.log(2 * math.pi) / 2)
    weights = mixture.log_weights.to(d) - scale
    near, far = (d - r).clamp(min=0), d + r
    return Interval(*[(weights - e.square() / (2 * s.square())).logsumexp(dim=1) for e in (far, near)])


def radius(ball: Ball, metric: Metric) -> Tensor:
    """Largest distance in the metric from the centre of the ball, shape (B,), or more: by l2 length or axis by axis."""
    low, high = around(ball)
    off = (high - ball.x).maximum(ball.x - low).flatten(1)
    by_axis: Tensor = torch.linalg.vector_norm(off @ metric.axes.to(off).abs(), dim=1)
    if metric.rest is not None:  # what the axes leave is no longer than the whole
        by_axis = torch.hypot(by_axis, torch.linalg.vector_norm(off, dim=1) * metric.rest.to(off))
    return by_axis.minimum(spread(ball, "l2") * stretch(metric).to(off))


def ccu_bounds(odds: Interval, inside: Interval, outside: Interval, classes: int) -> Interval:
    """log(1 - q + (1 - 1/K) p_out / p_in) - log(q - 1/K): it grows with p_out / p_in and with the log-odds of q.

    Args:
        odds: log((1 - q) / q) of the largest softmax probability q; minus infinity where nothing bounds it from below.
        inside: log p_in.
        outside: log of lambda p_out.
        classes: K >= 2.

    Returns:
        Shapes (B,); the upper end is infinite where q may be 1/K.
    """
    ratio = Interval(outside.lower - inside.upper, outside.upper - inside.lower)

    def score(log_odds: Tensor, log_ratio: Tensor) -> Tensor:
        unsure = torch.logaddexp(logsigmoid(log_odds), log_ratio + math.log1p(-1 / classes))
        lead = ((-log_odds).sigmoid() - 1 / classes).clamp(min=0)
        return unsure - lead.log()

    return Interval(score(odds.lower, ratio.lower), score(odds.upper, ratio.upper))
