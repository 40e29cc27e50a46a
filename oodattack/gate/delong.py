"""Areas under ROC curves and how far two of them differ, with standard errors.

DeLong, DeLong & Clarke-Pearson, "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic
Curves", Biometrics 44, 1988; by ranks as in Sun & Xu, "Fast Implementation of DeLong's Algorithm for Comparing the
Areas Under Correlated Receiver Operating Characteristic Curves", IEEE Signal Processing Letters 21, 2014. Without
scores: Hanley & McNeil, "The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve",
Radiology 143, 1982.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


class Placed(NamedTuple):
    """Where each row stands among the rows of the other side.

    Attributes:
        id: shape (..., N): share of the OOD scores above each ID score, ties half. Its mean is the AUROC.
        ood: shape (..., M): share of the ID scores below each OOD score, ties half. So is its mean.
    """

    id: Rows
    ood: Rows

    @property
    def auroc(self) -> Rows:
        """P(ood > id) + P(ood == id) / 2, shape (...)."""
        return np.asarray(self.ood.mean(axis=-1))

    @property
    def error(self) -> Rows:
        """Standard error of the AUROC, sqrt(var(id) / N + var(ood) / M), shape (...). 0 where a side has one row."""
        return np.asarray(np.sqrt(mean_variance(self.id) + mean_variance(self.ood)))

    def minus(self, other: "Placed") -> "Placed":
        """Row by row; `auroc` and `error` of what comes out are those of the difference, for the same images."""
        return Placed(self.id - other.id, self.ood - other.ood)


def placed(id_scores: Rows, ood_scores: Rows) -> Placed:
    """Rank each row of one side among the other, in O(n log n).

    Args:
        id_scores: shape (..., N), N >= 1, finite, higher means more OOD.
        ood_scores: shape (..., M), M >= 1, finite; leading axes as of `id_scores`.
    """
    n, m = id_scores.shape[-1], ood_scores.shape[-1]
    ranks = mid_ranks(np.concatenate([id_scores, ood_scores], axis=-1))
    above = m - (ranks[..., :n] - mid_ranks(id_scores))
    below = ranks[..., n:] - mid_ranks(ood_scores)
    return Placed(above / m, below / n)


def mid_ranks(scores: Rows) -> Rows:
    """Ranks 1..n along the last axis; those that tie share the mean of theirs."""
    order = scores.argsort(axis=-1)
    ordered = np.take_along_axis(scores, order, axis=-1)
    place = np.broadcast_to(np.arange(scores.shape[-1]), scores.shape)
    new = np.ones(scores.shape, dtype=bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    end = np.roll(new, -1, axis=-1)  # the last of its run; the first entry of all is new, so the last ends one
    last = np.minimum.accumulate(np.where(end, place, scores.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    return ranks


def mean_variance(rows: Rows) -> Rows:
    """Variance of the mean of the last axis, estimated; 0 for a single row."""
    n = rows.shape[-1]
    return np.asarray(rows.var(axis=-1, ddof=1) / n) if n > 1 else np.zeros(rows.shape[:-1])


def hanley_mcneil(auroc: float, n_id: int, n_ood: int) -> float:
    """Standard error of an AUROC from the area and the sizes alone, for scores like those of two exponentials.

    sqrt((A (1 - A) + (M - 1)(Q1 - A^2) + (N - 1)(Q2 - A^2)) / (N M)), Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A).

    Args:
        auroc: A, in [0, 1]; at both ends the error is 0.
        n_id: N, >= 1.
        n_ood: M, >= 1.
    """
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = auroc * (1 - auroc) + (n_ood - 1) * (q1 - auroc**2) + (n_id - 1) * (q2 - auroc**2)
    return float(np.sqrt(max(spread, 0.0) / (n_id * n_ood)))
