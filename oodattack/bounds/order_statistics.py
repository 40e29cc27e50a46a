"""Bounds of quantiles of a distribution from independent draws: exact, by the binomial distribution.

k of n draws lie below the p-quantile with probability P(Bin(n, p) = k), whatever the distribution; ties make it less.
For smoothed regression: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing",
NeurIPS 2020, arXiv:2007.03730.
"""


def rank_above(n: int, p: float, alpha: float) -> int | None:
    """Smallest k with P(Bin(n, p) >= k) <= alpha: the k-th smallest draw is >= the p-quantile, but for alpha.

    Args:
        n: draws, >= 1.
        p: level of the quantile, in [0, 1].
        alpha: probability of error, in (0, 1).

    Returns:
        k in 1..n; None where n draws are too few.
    """
    from scipy.stats import binom  # type: ignore[import-untyped, unused-ignore]

    k = int(binom.isf(alpha, n, p)) + 1
    while k > 1 and binom.sf(k - 2, n, p) <= alpha:
        k -= 1
    while k <= n and binom.sf(k - 1, n, p) > alpha:
        k += 1
    return k if k <= n else None


def rank_below(n: int, p: float, alpha: float) -> int | None:
    """Largest k with P(Bin(n, p) < k) <= alpha: the k-th smallest draw is <= the p-quantile, but for alpha."""
    mirrored = rank_above(n, 1 - p, alpha)
    return None if mirrored is None else n + 1 - mirrored
