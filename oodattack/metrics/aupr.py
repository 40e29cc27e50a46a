"""Area under the precision-recall curve as average precision. Positive class: OOD."""

import torch
from torch import Tensor

from oodattack.metrics.auroc import score_vector


def aupr(id_scores: Tensor, ood_scores: Tensor) -> float:
    """sum_k (R_k - R_{k-1}) P_k over the distinct scores from high to low, with R recall and P precision of OOD.

    Inputs of equal score enter at one threshold, so the order within a tie cannot matter. Nothing is interpolated.
    Chance is M / (N + M): unlike the AUROC, the number moves with the sizes of the two sets.

    Args:
        id_scores: shape (N,), N >= 1, finite, higher means more OOD.
        ood_scores: shape (M,), M >= 1, finite.

    Returns:
        Average precision in (0, 1].

    Raises:
        ValueError: a vector is empty, not 1-D or not finite.
    """
    id_sorted = score_vector(id_scores, "ID").sort().values
    ood_sorted = score_vector(ood_scores, "OOD").sort().values
    levels, new = torch.unique_consecutive(ood_sorted, return_counts=True)  # recall moves only where an OOD score lies
    caught = len(ood_sorted) - torch.searchsorted(ood_sorted, levels)
    flagged = caught + len(id_sorted) - torch.searchsorted(id_sorted, levels)
    return float((new * caught / flagged.double()).sum() / len(ood_sorted))
