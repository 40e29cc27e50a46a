"""Bounds of scores that are functions of linear functions of logits: maxima, energies, softmax probabilities.

A softmax of upper bounds bounds nothing: softmax_k((1, 1)) is 1/2 where each of two logits lies in [0, 1], and p_1 may
be as large as e / (1 + e). What bounds a probability are bounds of differences of logits, and for these the last layer
is merged: (w_k - w_l) h is bounded as one linear function of the features. Source of the merging: Bitterwolf, Meinke &
Hein, "Certifiably Adversarially Robust Detection of Out-of-Distribution Data", NeurIPS 2020, arXiv:2007.08473.
"""

import torch
from torch import Tensor

from oodattack.bounds.backward import linear_bounds
from oodattack.bounds.ball import Interval
from oodattack.bounds.reach import Reach


def minus_largest(found: Reach, a: Tensor, at: int) -> Interval:
    """-max_s <a_s, h>, shapes (B,). Arguments as `minus_logsumexp`."""
    bounds = linear_bounds(found, a, at)
    return Interval(-bounds.upper.amax(dim=1), -bounds.lower.amax(dim=1))


def minus_logsumexp(found: Reach, a: Tensor, at: int, *, temperature: float = 1.0) -> Interval:
    """-T log sum_s exp(<a_s, h> / T).

    Below: from the upper bounds of all terms. Above: from their lower bounds, or those of one linear function, as
    logsumexp(v) >= <p, v> + H(p) for any probabilities p; here those at the centre of the ball.

    Args:
        found: the network on the ball.
        a: shape (S, D).
        at: number of an output with D entries.
        temperature: T > 0.

    Returns:
        Shapes (B,).
    """
    bounds = linear_bounds(found, a, at)
    p = (found.values[at].flatten(1) @ a.mT / temperature).softmax(dim=1)
    jointly = linear_bounds(found, (p @ a)[:, None], at).lower[:, 0] + temperature * entropy(p)
    most = -temperature * (bounds.upper / temperature).logsumexp(dim=1)
    least = temperature * (bounds.lower / temperature).logsumexp(dim=1)
    return Interval(most, -least.maximum(jointly))


def entropy(p: Tensor) -> Tensor:
    """-sum_k p_k log p_k over the last dimension."""
    found: Tensor = torch.special.entr(p).sum(dim=-1)
    return found


def log_odds_bounds(found: Reach, at: int, *, temperature: float = 1.0) -> Interval:
    """min_k log sum_{l != k} exp((f_l - f_k) / T), the log-odds of the largest softmax probability against all others.

    Args:
        found: the network on the ball.
        at: number of the output that the logits f are, two at least.
        temperature: T > 0.

    Returns:
        Shapes (B,).
    """
    bounds = differences(found, at, temperature)
    below, above = (part.logsumexp(dim=2) for part in bounds)  # (B, K), by k
    logits = found.values[at].flatten(1) / temperature
    top = logits.argmax(dim=1, keepdim=True)
    p = logits.scatter(1, top, -torch.inf).softmax(dim=1)
    joint = (p - torch.zeros_like(p).scatter(1, top, 1.0)) / temperature  # sum_l p_l (f_l - f_k)
    jointly = linear_bounds(found, joint[:, None], at).lower + entropy(p)[:, None]
    below = below.scatter(1, top, below.gather(1, top).maximum(jointly))
    return Interval(below.amin(dim=1), above.amin(dim=1))


def differences(found: Reach, at: int, temperature: float = 1.0) -> Interval:
    """(f_l - f_k) / T at [k, l], shapes (B, K, K); minus infinity where k = l, so that a logsumexp leaves it out."""
    k = found.values[at].shape[1]
    first, second = torch.triu_indices(k, k, offset=1)
    one_hot = torch.eye(k, dtype=torch.float64, device=found.ball.x.device)
    bounds = linear_bounds(found, (one_hot[second] - one_hot[first]) / temperature, at)
    lower, upper = (torch.full((len(found.ball.x), k, k), -torch.inf).to(found.ball.x) for _ in range(2))
    lower[:, first, second], upper[:, first, second] = bounds.lower, bounds.upper
    lower[:, second, first], upper[:, second, first] = -bounds.upper, -bounds.lower
    return Interval(lower, upper)
