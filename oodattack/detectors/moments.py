"""Class means and the covariance that classes share, batch by batch: Chan, Golub & LeVeque, "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class ClassMoments(NamedTuple):
    """What is kept of features seen so far, in float64 on the CPU.

    Attributes:
        labels: classes seen, in rising order, shape (K,).
        rows: their number, shape (K,), float64.
        means: shape (K, D).
        scatter: sum over rows of (z - mean of its class)(z - mean of its class)^T, shape (D, D).
        rounding: relative spacing of the numbers that the features came in.
    """

    labels: Tensor
    rows: Tensor
    means: Tensor
    scatter: Tensor
    rounding: float = 0.0


def batch_moments(z: Tensor, y: Tensor) -> ClassMoments:
    """Moments of one batch, its means first and then the scatter about them.

    Args:
        z: features, shape (B, D), B >= 1, finite.
        y: labels, shape (B,), whole numbers >= 0.

    Raises:
        ValueError: not one label a row, a label that is negative or no whole number, or features that are not finite.
    """
    if y.ndim != 1 or len(y) != len(z):
        found = len(y) if y.ndim == 1 else f"shape {tuple(y.shape)} of"
        raise ValueError(
            f"`y` must have one label a feature row, got {found} labels for {len(z)} rows. Pass those of the same rows."
        )
    if y.is_floating_point() or y.is_complex() or y.min() < 0:
        kind = y.dtype if y.is_floating_point() or y.is_complex() else int(y.min())
        raise ValueError(f"`y` must be classes 0, 1, 2, ..., got {kind}. Leave out rows without a class.")
    rounding = torch.finfo(z.dtype).eps if z.is_floating_point() else 0.0
    z = z.detach().cpu().double()
    if not z.isfinite().all():
        raise ValueError("features must be finite to be fitted on, got NaN or infinity. Check network and images.")
    labels, row_of, count = y.cpu().long().unique(return_inverse=True, return_counts=True)
    means = z.new_zeros(len(labels), z.shape[1]).index_add_(0, row_of, z) / count[:, None]
    off = z - means[row_of]
    return ClassMoments(labels, count.double(), means, off.T @ off, rounding)


def merged(a: ClassMoments, b: ClassMoments) -> ClassMoments:
    """Moments of the rows of both.

    With n the counts, d = b.means - a.means and N = n_a + n_b for every class: mean = a.means + d n_b / N, and the
    scatter grows by sum_k d d^T n_a n_b / N. Nothing large is subtracted from anything large.
    """
    labels = torch.cat([a.labels, b.labels]).unique()

    def spread(part: ClassMoments) -> tuple[Tensor, Tensor]:
        at = torch.searchsorted(labels, part.labels)
        count = part.rows.new_zeros(len(labels)).index_copy_(0, at, part.rows)
        return count, part.means.new_zeros(len(labels), part.means.shape[1]).index_copy_(0, at, part.means)

    (n_a, means_a), (n_b, means_b) = spread(a), spread(b)
    total, d = n_a + n_b, means_b - means_a
    means = means_a + d * (n_b / total)[:, None]
    between = (d * (n_a * n_b / total)[:, None]).T @ d
    return ClassMoments(labels, total, means, a.scatter + b.scatter + between, max(a.rounding, b.rounding))


def class_moments(batches: Iterable[tuple[Tensor, Tensor]]) -> ClassMoments:
    """Moments of all batches of features (b, D) and labels (b,); one batch is held at a time.

    Raises:
        ValueError: as `batch_moments`, no batches, or a class below the largest label without rows.
    """
    found: ClassMoments | None = None
    for z, y in batches:
        if len(z):
            found = batch_moments(z, y) if found is None else merged(found, batch_moments(z, y))
    if found is None:
        raise ValueError("features must be there to be fitted on, got 0 rows. Pass ID images.")
    expected = torch.arange(len(found.labels), dtype=found.labels.dtype)
    if (gap := found.labels != expected).any():
        missing = int(expected[gap][0])
        raise ValueError(
            f"every class must have samples to fit on, got none of class {missing}. "
            "Pass images of each, or number the classes without gaps."
        )
    return found


def covariance(moments: ClassMoments) -> Tensor:
    """scatter / number of rows, shape (D, D): the maximum-likelihood estimate, as in scikit-learn."""
    return moments.scatter / moments.rows.sum()


def precision(moments: ClassMoments) -> Tensor:
    """Pseudo-inverse of the covariance, shape (D, D): directions in which no feature varies get no weight.

    Nor do those in which features vary by their rounding alone, whose weight would be past all others: where D times
    the square of its relative size, or the rounding of this computation, is all that is left of the largest variance.

    Raises:
        ValueError: no feature varies within a class, as with one row each: every distance would be 0.
    """
    found = covariance(moments)
    if not found.any():
        rows = int(moments.rows.sum())
        raise ValueError(
            f"features must vary within a class to be fitted on, got a covariance of 0 from {rows} rows in "
            f"{len(moments.labels)} classes. Pass more images."
        )
    least = max(torch.finfo(found.dtype).eps, moments.rounding**2)
    inverse: Tensor = torch.linalg.pinv(found, hermitian=True, rtol=len(found) * least)
    return inverse
