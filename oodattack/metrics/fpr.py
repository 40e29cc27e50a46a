"""False positive rate where the true positive rate reaches a given share, for both choices of the positive class.

Papers mean two different numbers by FPR95. With scores that are high for OOD:

- *ID positive*: keep 95 % of the ID inputs; which share of the OOD inputs is kept with them? `fpr_at_95_id_tpr`.
- *OOD positive*: catch 95 % of the OOD inputs; which share of the ID inputs is caught with them? `fpr_at_95_ood_tpr`.

Neither interpolates: both sit on a threshold that can be deployed, a score that occurs, and inputs that tie with it
fall on the positive side together. What published code computes:

| code | positive | rule | against this file |
|---|---|---|---|
| OpenOOD, SalAgg | OOD | first ROC point with TPR >= 0.95 | equal to `fpr_at_95_ood_tpr` |
| Outlier Exposure | OOD | ROC point with recall closest to 0.95 | (a) |
| Energy, POEM, GReg | ID | same function as Outlier Exposure | (a) |
| GAIA, S&I, LINe | ID | round(0.05 n)-th lowest confidence from 0, OOD strictly above it | (b) |
| DOS | ID | floor(0.95 n)-th highest confidence, OOD strictly above it | (b) |
| MOOD, GQ | ID | straight line between ROC points at 0.95 | up to one step of the ROC lower or higher |
| ODIN, Confident Classifier | ID | mean over thresholds with TPR near 0.95 | near, no fixed order |
| Gram, Mahalanobis | ID | true negative rate at the count closest to 0.95 | one ID input apart at most, without ties |

(a) The closest recall may lie just under 0.95; among thresholds of equal recall it takes the one with the most false
positives, so it can exceed ours where ours is exactly at 0.95, by the negatives between two neighbouring positives.
(b) Same threshold whenever 0.95 n is an integer; the strict comparison drops the OOD inputs that tie with it.
"""

import math
from fractions import Fraction

from torch import Tensor

from oodattack.metrics.auroc import score_vector


def id_threshold(id_scores: Tensor, *, tpr: float) -> float:
    """Smallest t with #{id <= t} >= tpr N: accept an input as ID when its score is <= t.

    Args:
        id_scores: shape (N,), N >= 1, finite. For deployment, scores of held-out ID inputs.
        tpr: share of ID inputs to accept, in (0, 1].

    Returns:
        One of the ID scores.

    Raises:
        ValueError: `tpr` is out of range, or the scores are empty, not 1-D or not finite.
    """
    scores = score_vector(id_scores, "ID")
    return float(scores.kthvalue(count_for(tpr, len(scores))).values)


def fpr_at_id_tpr(id_scores: Tensor, ood_scores: Tensor, *, tpr: float) -> float:
    """#{ood <= t} / M at t = `id_threshold`: share of OOD inputs accepted when `tpr` of the ID inputs are.

    Args:
        id_scores: shape (N,), N >= 1, finite, higher means more OOD.
        ood_scores: shape (M,), M >= 1, finite.
        tpr: share of ID inputs to accept, in (0, 1].

    Returns:
        Share in [0, 1]; lower is better.

    Raises:
        ValueError: as `id_threshold`, for either side.
    """
    ood = score_vector(ood_scores, "OOD")
    return int((ood <= id_threshold(id_scores, tpr=tpr)).sum()) / len(ood)


def fpr_at_ood_tpr(id_scores: Tensor, ood_scores: Tensor, *, tpr: float) -> float:
    """#{id >= t} / N at the largest t with #{ood >= t} >= tpr M: share of ID inputs flagged when `tpr` of the OOD are.

    Args:
        id_scores: shape (N,), N >= 1, finite, higher means more OOD.
        ood_scores: shape (M,), M >= 1, finite.
        tpr: share of OOD inputs to flag, in (0, 1].

    Returns:
        Share in [0, 1]; lower is better.

    Raises:
        ValueError: as `id_threshold`, for either side.
    """
    scores, ood = score_vector(id_scores, "ID"), score_vector(ood_scores, "OOD")
    threshold = ood.kthvalue(len(ood) - count_for(tpr, len(ood)) + 1).values
    return int((scores >= threshold).sum()) / len(scores)


def fpr_at_95_id_tpr(id_scores: Tensor, ood_scores: Tensor) -> float:
    """`fpr_at_id_tpr` at tpr = 0.95: share of OOD inputs accepted when 95 % of the ID inputs are."""
    return fpr_at_id_tpr(id_scores, ood_scores, tpr=0.95)


def fpr_at_95_ood_tpr(id_scores: Tensor, ood_scores: Tensor) -> float:
    """`fpr_at_ood_tpr` at tpr = 0.95: share of ID inputs flagged when 95 % of the OOD inputs are."""
    return fpr_at_ood_tpr(id_scores, ood_scores, tpr=0.95)


def count_for(tpr: float, size: int) -> int:
    """ceil(tpr * size), the fewest of `size` inputs that make up a share of `tpr`.

    `tpr` is read as the decimal it prints as: 0.07 of 100 is 7, although 0.07 * 100 > 7 in binary arithmetic.

    Args:
        tpr: share in (0, 1].
        size: >= 1.

    Returns:
        Count in 1..size.

    Raises:
        ValueError: `tpr` is out of range.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"`tpr` must be in (0, 1], got {tpr}. Write 0.95, not 95.")
    return math.ceil(Fraction(str(float(tpr))) * size)
