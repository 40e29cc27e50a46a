"""An outlier class beside the K others, and the absent category loss of DOS: Jiang, Cheng, Chen, Wang & Wei, "DOS:
Diverse Outlier Sampling for Out-of-Distribution Detection", ICLR 2024, arXiv:2306.02031."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def outlier_class(logits: Tensor, y: Tensor, logits_aux: Tensor, *, weight: float) -> Tensor:
    """mean_in CE(f, y) + weight * mean_aux CE(f, K), the loss of DOS for a network with K + 1 outputs.

    The last output, class K, is the one for outliers. The authors' weight is 1.

    Args:
        logits: f(x) of ID inputs, shape (N, K + 1), N >= 1, K >= 2, unbounded.
        y: labels, shape (N,), integers in 0..K-1.
        logits_aux: f(x) of auxiliary outliers, shape (M, K + 1), M >= 1.
        weight: of the outliers' term, >= 0.

    Returns:
        Scalar >= 0. The cross-entropy of the ID inputs is in it.

    Raises:
        ValueError: shapes, labels or weight that do not fit.

    Differs from the authors' code: nothing.
    """
    check_labels(logits, y)
    if logits_aux.ndim != 2 or len(logits_aux) == 0 or logits_aux.shape[1] != logits.shape[1]:
        raise ValueError(
            f"`logits_aux` must have shape (M, {logits.shape[1]}) with M >= 1, got {tuple(logits_aux.shape)}. "
            "Pass outliers through the same network."
        )
    check_weight(weight)
    absent = torch.full((len(logits_aux),), logits_aux.shape[1] - 1, device=logits_aux.device)
    return cross_entropy(logits, y) + weight * cross_entropy(logits_aux, absent)


def outlier_probability(logits: Tensor) -> Tensor:
    """p_K = softmax_K f, the probability of the outlier class: 1 - p_K is the ID-high score of DOS.

    Args:
        logits: shape (B, K + 1), unbounded.

    Returns:
        OOD scores, shape (B,), in [0, 1]; higher means more OOD. They round to 0 or 1 for large logits, where
        `outlier_log_odds` still tells rows apart.

    Raises:
        ValueError: `logits` has another shape.
    """
    _check_logits(logits)
    return logits.softmax(dim=1)[:, -1]


def outlier_log_odds(logits: Tensor) -> Tensor:
    """log p_K - log(1 - p_K) = f_K - log sum_{c < K} exp(f_c), in the order of `outlier_probability`.

    Args:
        logits: shape (B, K + 1), unbounded.

    Returns:
        OOD scores, shape (B,), unbounded; higher means more OOD.

    Raises:
        ValueError: `logits` has another shape.
    """
    _check_logits(logits)
    return logits[:, -1] - logits[:, :-1].logsumexp(dim=1)


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Raise ValueError unless `logits` is (N, K + 1) with K >= 2 and `y` has N labels in 0..K-1."""
    _check_logits(logits)
    if len(logits) == 0:
        raise ValueError("`logits` must have at least one row, got none. Pass a batch of ID inputs.")
    if y.shape != logits.shape[:1] or y.dtype != torch.int64:
        raise ValueError(
            f"`y` must have shape ({len(logits)},) and dtype torch.int64, got {tuple(y.shape)} and {y.dtype}. "
            "Pass one class index a row."
        )
    if y.min() < 0 or y.max() >= logits.shape[1] - 1:
        raise ValueError(
            f"`y` must be in 0..{logits.shape[1] - 2}, got {y.min().item()}..{y.max().item()}. "
            "The last output is the outlier class: build the network with one class more than there are labels."
        )


def check_weight(weight: float) -> None:
    """Raise ValueError unless `weight` is a finite number >= 0."""
    if not 0 <= weight < float("inf"):
        raise ValueError(f"`weight` must be >= 0, got {weight}. It multiplies the second term of the loss.")


def _check_logits(logits: Tensor) -> None:
    """Raise ValueError unless `logits` is (B, K + 1) with K >= 2."""
    if logits.ndim != 2 or logits.shape[1] < 3:
        raise ValueError(
            f"`logits` must have shape (B, K + 1) with K >= 2 classes and one for outliers, got {tuple(logits.shape)}. "
            "Build the network with one class more than there are labels."
        )
