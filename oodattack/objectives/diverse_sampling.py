"""Diverse outlier sampling (DOS): Jiang, Cheng, Chen, Wang & Wei, "DOS: Diverse Outlier Sampling for
Out-of-Distribution Detection", ICLR 2024, arXiv:2306.02031."""

from torch import Tensor

from oodattack.objectives.clustering import check_candidates, cluster, ends, made_up

RESTARTS = 5  # of K-means, as in the authors' code


def diverse(features: Tensor, scores: Tensor, *, n: int, seed: int) -> Tensor:
    """argmin of the score in each of n clusters: the candidate that each cluster's detector is least sure of.

    The authors score a candidate by the softmax probability of the outlier class and cluster 384 candidates into 64
    for 64 ID inputs. Clusters that stay empty are made up for by random others.

    Args:
        features: penultimate features h(x) of a pool of candidates, shape (N, D), N >= n, finite.
        scores: OOD scores, shape (N,), finite, higher means more OOD: `outlier_log_odds` orders like the probability.
        n: number of clusters and of candidates chosen, >= 1.
        seed: of the clustering and of what is drawn at random, in 0..2**32 - 1.

    Returns:
        Indices into the pool, shape (n,), int64, ascending, without repeats, on the device of `scores`.

    Raises:
        ValueError: shapes that do not fit, fewer than n candidates, or `n` or `seed` out of range.
        FloatingPointError: features or scores that are not finite.

    Differs from the authors' code: one cluster a chosen row whatever n is (theirs: 64); double precision.
    """
    check_candidates(features, scores, name="scores", seed=seed)
    if not 1 <= n <= len(features):
        raise ValueError(f"`n` must be in 1..{len(features)}, the size of the pool, got {n}. Draw a larger pool.")
    lowest, _ = ends(cluster(features, n, seed=seed, restarts=RESTARTS), scores)
    return made_up(lowest, n, len(features), seed=seed).to(scores.device)
