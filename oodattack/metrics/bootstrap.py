"""Confidence intervals: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals).

Sorting once is enough. A draw is a count per sorted score; running sums of the counts are the whole ROC curve of that
draw, so each metric is a few look-ups and no draw is ever sorted.

The draws run on one thread. Most of the work is drawing random numbers, which is serial in any case: a second thread
saves a tenth on an idle machine, and on a busy one the threads can spend a hundred times that waiting for one another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from oodattack.metrics.auroc import score_vector
from oodattack.metrics.fpr import count_for

CHUNK = 2**18  # scores drawn at a time: a few MB whatever the number of draws, and small enough for a CPU cache


class Interval(NamedTuple):
    """Both ends of a confidence interval, in [0, 1]."""

    low: float
    high: float


class Intervals(NamedTuple):
    """A confidence interval per metric."""

    auroc: Interval
    fpr_at_95_id_tpr: Interval
    fpr_at_95_ood_tpr: Interval


class Draws(NamedTuple):
    """Metrics of each bootstrap draw, each shape (draws,), float64, in [0, 1]."""

    auroc: Tensor
    fpr_at_95_id_tpr: Tensor
    fpr_at_95_ood_tpr: Tensor


def bootstrap(id_scores: Tensor, ood_scores: Tensor, *, draws: int, seed: int, level: float = 0.95) -> Intervals:
    """Percentile intervals of a stratified bootstrap: (1 - level) / 2 of the draws lie below and above.

    Covers the choice of the test inputs. Does not cover training, the attack's randomness, or inputs that depend on one
    another. Perfectly separated sets stay separated in every draw, so their AUROC interval is (1, 1) and says nothing
    about how close the sets are; sets separated the wrong way give (0, 0).

    Args:
        id_scores: shape (N,), N >= 1, finite, higher means more OOD.
        ood_scores: shape (M,), M >= 1, finite.
        draws: number of resamples, >= 2 / (1 - level) so that at least one lies beyond each end; 2000 is plenty.
        seed: fixes the draws.
        level: coverage aimed at, in (0, 1).

    Returns:
        An interval per metric.

    Raises:
        ValueError: `draws` or `level` is out of range, or a vector is empty, not 1-D or not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}. Write 0.95, not 95.")
    tail = (1 - Fraction(str(float(level)))) / 2
    if draws * tail < 1:
        raise ValueError(f"`draws` must be >= {float(1 / tail):g} at level {level}, got {draws}. Draw 2000.")
    ends = torch.tensor([float(tail), float(1 - tail)], dtype=torch.float64)
    found = bootstrap_draws(id_scores, ood_scores, draws=draws, seed=seed)
    return Intervals(*(Interval(*metric.quantile(ends).tolist()) for metric in found))


def bootstrap_draws(id_scores: Tensor, ood_scores: Tensor, *, draws: int, seed: int) -> Draws:
    """Resample both sets with replacement, sizes kept, and compute every metric of every draw.

    Each value equals, to the last bit, what `auroc`, `fpr_at_95_id_tpr` or `fpr_at_95_ood_tpr` returns on the resampled
    scores. The result depends on the scores and the seed only: not on the order of the scores, nor on the number of
    threads, and the first draws of a longer run are the draws of a shorter one.

    Args:
        id_scores: shape (N,), N >= 1, finite, higher means more OOD.
        ood_scores: shape (M,), M >= 1, finite.
        draws: number of resamples, >= 1.
        seed: fixes the draws.

    Returns:
        One value per draw and metric.

    Raises:
        ValueError: `draws` is < 1, or a vector is empty, not 1-D or not finite.
    """
    if draws < 1:
        raise ValueError(f"`draws` must be >= 1, got {draws}. Draw 2000.")
    id_sorted = score_vector(id_scores, "ID").sort().values
    ood_sorted = score_vector(ood_scores, "OOD").sort().values
    below = torch.searchsorted(id_sorted, ood_sorted, right=False)
    up_to = torch.searchsorted(id_sorted, ood_sorted, right=True)
    ood_up_to = torch.searchsorted(ood_sorted, id_sorted, right=True)
    id_random, ood_random = streams(seed)
    rows = max(1, CHUNK // (len(id_sorted) + len(ood_sorted)))
    parts = []
    with _one_thread():
        for start in range(0, draws, rows):
            id_sums = _running_counts(len(id_sorted), min(rows, draws - start), id_random)
            ood_sums = _running_counts(len(ood_sorted), min(rows, draws - start), ood_random)
            parts.append(_metrics(id_sums, ood_sums, below, up_to, ood_up_to))
    return Draws(*(torch.cat(metric) for metric in zip(*parts, strict=True)))


def streams(seed: int) -> tuple[Generator, Generator]:
    """One generator per side, so that the draws of a side do not depend on the size of the other or on chunking."""
    seeds = torch.randint(2**32, (2,), generator=Generator().manual_seed(seed))
    return Generator().manual_seed(int(seeds[0])), Generator().manual_seed(int(seeds[1]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch on one CPU thread, then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _running_counts(size: int, draws: int, random: Generator) -> Tensor:
    """Entry k counts the resampled inputs among the k lowest scores. Shape (draws, size + 1), int32, ends at `size`."""
    drawn = torch.randint(1, size + 1, (draws, size), generator=random)
    one = torch.ones((), dtype=torch.int32).expand(draws, size)
    return torch.zeros(draws, size + 1, dtype=torch.int32).scatter_add_(1, drawn, one).cumsum(1, dtype=torch.int32)


def _metrics(id_sums: Tensor, ood_sums: Tensor, below: Tensor, up_to: Tensor, ood_up_to: Tensor) -> Draws:
    """Metrics of one chunk of draws.

    Args:
        id_sums: running counts, shape (R, N + 1).
        ood_sums: running counts, shape (R, M + 1).
        below: shape (M,), ID scores < each sorted OOD score.
        up_to: shape (M,), ID scores <= each sorted OOD score.
        ood_up_to: shape (N,), OOD scores <= each sorted ID score.
    """
    rows, n, m = len(id_sums), id_sums.shape[1] - 1, ood_sums.shape[1] - 1
    # pairs in order count two, ties one; whole numbers below 2**53, so float64 adds them exactly
    wins = id_sums.gather(1, below.expand(rows, m)) + id_sums.gather(1, up_to.expand(rows, m))
    pairs = (wins.double() * ood_sums.diff(dim=1)).sum(dim=1)
    # thresholds: the lowest sorted score whose running count reaches the rank wanted
    id_rank = torch.full((rows, 1), count_for(0.95, n), dtype=torch.int32)
    ood_rank = torch.full((rows, 1), m - count_for(0.95, m) + 1, dtype=torch.int32)
    id_at = torch.searchsorted(id_sums, id_rank) - 1
    ood_at = torch.searchsorted(ood_sums, ood_rank) - 1
    accepted = ood_sums.gather(1, ood_up_to[id_at]).squeeze(1)
    flagged = n - id_sums.gather(1, below[ood_at]).squeeze(1)
    return Draws(pairs / (2 * n * m), accepted.double() / m, flagged.double() / n)
