"""One number from the values of a saliency map: the nine aggregates of section 4 of "XAI Saliency Maps Can Be Used for
OOD Detection", Hanssen & Hammer. Each maps (B, n) to (B,), row by row, with a gradient.

The first six grow with the magnitude of the map, the last three do not depend on it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

FLOOR = 1e-10  # smallest denominator
SHIFT = 1e-7  # added to the values that `rmd` divides by the sum of


def mean(v: Tensor) -> Tensor:
    """Mean."""
    return v.mean(dim=1)


def median(v: Tensor) -> Tensor:
    """The middle value; of an even number the lower one of two."""
    return v.median(dim=1).values


def norm(v: Tensor) -> Tensor:
    """Euclidean norm, not divided by the number of values."""
    found: Tensor = torch.linalg.vector_norm(v, dim=1)
    return found


def spread(v: Tensor) -> Tensor:
    """Range: the largest minus the smallest value."""
    return v.amax(dim=1) - v.amin(dim=1)


def largest(v: Tensor) -> Tensor:
    """Maximum."""
    return v.amax(dim=1)


def quantile(v: Tensor, q: float) -> Tensor:
    """The value below which a share q is, interpolated linearly; `torch.quantile` refuses 16 million values."""
    at = q * (v.shape[1] - 1)
    low, part = int(at), at - int(at)
    ordered = v.sort(dim=1).values
    return ordered[:, low] + part * (ordered[:, min(low + 1, v.shape[1] - 1)] - ordered[:, low])


def q3(v: Tensor) -> Tensor:
    """Third quartile."""
    return quantile(v, 0.75)


def away_from_zero(d: Tensor) -> Tensor:
    """d, or +-1e-10 where it is closer to zero than that."""
    return torch.where(d.abs() < FLOOR, torch.where(d < 0, -FLOOR, FLOOR).to(d.dtype), d)


def cv(v: Tensor) -> Tensor:
    """Coefficient of variation: standard deviation (unbiased) over the mean with its sign.

    Raises:
        ValueError: maps of one value.
    """
    if v.shape[1] < 2:
        raise ValueError("saliency maps must have 2 values or more for `cv`, got 1. Choose another layer or aggregate.")
    return v.std(dim=1) / away_from_zero(v.mean(dim=1))


def rmd(v: Tensor) -> Tensor:
    """Relative mean absolute difference: twice the Gini coefficient, sum_i (2 i - n - 1) v_(i) / (n sum_i v_i).

    Rows with negative values are shifted by their smallest value first.
    """
    n = v.shape[1]
    ordered = v.sort(dim=1).values
    ordered = ordered - ordered[:, :1].clamp(max=0) + SHIFT
    rank = 2 * torch.arange(1, n + 1, device=v.device, dtype=v.dtype) - n - 1
    return 2 * (rank * ordered).sum(dim=1) / (n * ordered.sum(dim=1))


def qcd(v: Tensor) -> Tensor:
    """Quartile coefficient of dispersion: (q3 - q1) / (q3 + q1).

    Differs from the authors' code: where q3 + q1 = 0 theirs is infinite, and this divides by 1e-10.
    """
    low, high = quantile(v, 0.25), quantile(v, 0.75)
    return (high - low) / away_from_zero(high + low)


AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean,
    "median": median,
    "norm": norm,
    "range": spread,
    "max": largest,
    "q3": q3,
    "cv": cv,
    "rmd": rmd,
    "qcd": qcd,
}
