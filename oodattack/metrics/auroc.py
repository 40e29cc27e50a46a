"""Area under the ROC curve from raw scores. Positive class: OOD."""

import torch
from torch import Tensor


def auroc(id_scores: Tensor, ood_scores: Tensor) -> float:
    """P(ood > id) + P(ood == id) / 2 over all ID-OOD pairs, the Mann-Whitney form.

    Only the order of the scores matters: no sigmoid, no grid of thresholds.

    Args:
        id_scores: shape (N,), N >= 1, finite, any scale, higher means more OOD.
        ood_scores: shape (M,), M >= 1, same scale as `id_scores`.

    Returns:
        Area in [0, 1]; 0.5 is chance, 1 means that every OOD score lies above every ID score.

    Raises:
        ValueError: a vector is empty, not 1-D or not finite.
    """
    below, up_to, pairs = _ranks(id_scores, ood_scores)
    return (below + up_to) / (2 * pairs)


def tie_share(id_scores: Tensor, ood_scores: Tensor) -> float:
    """P(ood == id): share of the ID-OOD pairs that the detector cannot tell apart at all.

    An area near 0.5 with a large share of ties is a saturated score, not an attack that worked.

    Args:
        id_scores: shape (N,), N >= 1, finite.
        ood_scores: shape (M,), M >= 1, finite.

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: as `auroc`.
    """
    below, up_to, pairs = _ranks(id_scores, ood_scores)
    return (up_to - below) / pairs


def score_vector(scores: Tensor, side: str) -> Tensor:
    """Check the scores of one side and bring them to float64 on the CPU, where every metric is computed.

    Args:
        scores: shape (N,), N >= 1, finite, any real dtype, any device.
        side: "ID" or "OOD", for the message.

    Returns:
        Same values, shape (N,), float64, CPU, no graph.

    Raises:
        TypeError: `scores` is not a tensor of real numbers.
        ValueError: `scores` is empty, not 1-D or not finite.
    """
    name = f"{side.lower()}_scores"
    if not isinstance(scores, Tensor) or scores.is_complex():
        kind = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"`{name}` must be a tensor of real numbers, got {kind}. Convert it with torch.as_tensor.")
    if scores.ndim != 1:
        raise ValueError(f"`{name}` must be 1-D, got shape {tuple(scores.shape)}. Give one score per input.")
    if not len(scores):
        raise ValueError(f"`{name}` must hold at least one score, got none. Both ID and OOD inputs are needed.")
    flat = scores.detach().cpu().to(torch.float64).contiguous()
    if bad := int((~flat.isfinite()).sum()):
        raise ValueError(f"`{name}` must be finite, got {bad} of {len(flat)} NaN or infinite. Mend the detector.")
    return flat


def _ranks(id_scores: Tensor, ood_scores: Tensor) -> tuple[int, int, int]:
    """Pairs with id < ood, pairs with id <= ood, all pairs. Integers, so nothing is rounded before the division."""
    id_sorted, ood = score_vector(id_scores, "ID").sort().values, score_vector(ood_scores, "OOD")
    below = torch.searchsorted(id_sorted, ood, right=False)
    up_to = torch.searchsorted(id_sorted, ood, right=True)
    return int(below.sum()), int(up_to.sum()), len(id_sorted) * len(ood)
