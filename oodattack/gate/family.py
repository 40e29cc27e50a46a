"""Many AUROCs, one answer: how often would noise alone fail any of them?

A drop counts when it is both larger than the margin and larger than noise explains. An AUROC whose drop has standard
error s, if nothing has changed but noise, passes both hurdles with probability Q(max(z, margin / s)), where z is how
many standard errors are asked for and Q the upper tail of the normal distribution. The sum over all AUROCs bounds the
probability that noise fails the build, whatever their dependence (Bonferroni's inequality); the adjusted p of a drop of
z standard errors is that sum. An AUROC that is known to a small part of the margin adds nothing to it, so that only the
uncertain ones share the level. The sum is taken a fifth higher, for tails that are not quite normal.
"""

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

TAIL = 1.2  # tails of standardised drops are up to a tenth heavier than normal ones at a few hundred images
CERTAIN = 40.0  # standard errors beyond which the tail is 0 in float64


def upper_tail(z: Numbers) -> Numbers:
    """Q(z) = P(Z > z) of the standard normal distribution."""
    return np.array([math.erfc(x / math.sqrt(2)) / 2 for x in np.ravel(z)]).reshape(np.shape(z))


def in_errors(drops: Numbers, errors: Numbers) -> Numbers:
    """drop / error; without an error +inf, 0 or -inf, as the drop is."""
    certain = np.where(drops == 0, 0.0, np.copysign(np.inf, drops))
    with np.errstate(over="ignore"):
        return np.divide(drops, errors, out=certain, where=errors > 0)


def false_alarms(z: float, errors: Numbers, margin: float) -> float:
    """Expected number of AUROCs that noise alone carries beyond z standard errors and the margin.

    Args:
        z: standard errors asked for.
        errors: of the drops, shape (K,), >= 0; where it is 0 there is no noise.
        margin: largest drop that is let pass, >= 0.
    """
    hurdles = np.maximum(z, in_errors(np.full_like(errors, margin), errors))
    return TAIL * float(upper_tail(hurdles)[errors > 0].sum())


def adjusted(drops: Numbers, errors: Numbers, margin: float) -> Numbers:
    """p of each drop, at most 1: how often noise would carry any AUROC that far, and beyond the margin."""
    return np.array([min(1.0, false_alarms(z, errors, margin)) for z in in_errors(drops, errors)])


def hurdle(errors: Numbers, margin: float, alpha: float) -> float:
    """Smallest z >= 0 at which `false_alarms` is at most alpha."""
    low, high = 0.0, CERTAIN
    if false_alarms(low, errors, margin) <= alpha:
        return low
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if false_alarms(middle, errors, margin) <= alpha else (middle, high)
    return high


def power(drop: float, errors: Numbers, margin: float, z: float) -> Numbers:
    """Probability that each AUROC fails where the true drop is `drop`, > margin; 1 where there is no noise."""
    asked = np.maximum(margin, z * errors) - drop
    return upper_tail(in_errors(asked, errors))
