"""OpenMix: Zhu, Cheng, Zhang & Liu, "OpenMix: Exploring Outlier Samples for Misclassification Detection", CVPR 2023,
arXiv:2303.17093."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from oodattack.objectives.outlier_class import check_labels, check_weight


def mixing_share(generator: Generator, *, concentration: int) -> Tensor:
    """lambda ~ Beta(a, a), one number for a whole batch.

    Beta(a, b) with whole a and b is the distribution of the a-th smallest of a + b - 1 uniform numbers (Gamma draws
    take no generator in PyTorch), so Beta(a, a) is that of the median of 2a - 1.

    Args:
        generator: source of the number.
        concentration: a >= 1; 10 in the authors' code, standard deviation 1 / sqrt(8a + 4), there 0.11.

    Returns:
        Scalar in [0, 1), float64, on the device of `generator`.

    Raises:
        ValueError: `concentration` < 1.
    """
    if concentration < 1:
        raise ValueError(f"`concentration` must be >= 1, got {concentration}. The authors take 10.")
    draws = torch.rand(2 * concentration - 1, generator=generator, device=generator.device, dtype=torch.float64)
    return draws.median()


def mix(x: Tensor, x_aux: Tensor, share: Tensor) -> Tensor:
    """x_mix = lambda x + (1 - lambda) x_aux, row by row.

    Args:
        x: ID inputs, shape (B, ...), values in [0, 1].
        x_aux: auxiliary outliers of the same shape.
        share: lambda, scalar in [0, 1], the ID input's part.

    Returns:
        Shape of `x`, on the segment between the two, with the dtype and device of `x`.

    Raises:
        ValueError: shapes that differ, or a share outside [0, 1].
    """
    if x.shape != x_aux.shape:
        raise ValueError(
            f"`x_aux` must have the shape of `x`, got {tuple(x_aux.shape)} and {tuple(x.shape)}. "
            "Draw as many outliers as ID inputs, or cut both to the shorter."
        )
    _check_share(share)
    return x_aux + share.to(x) * (x - x_aux)


def openmix(logits: Tensor, y: Tensor, logits_mixed: Tensor, share: Tensor, *, weight: float) -> Tensor:
    """mean CE(f, y) + weight * mean [lambda CE(f_mix, y) + (1 - lambda) CE(f_mix, K)], for K + 1 outputs.

    Row b of the mixture has a part lambda of the ID input in row b. The authors' weight is 1. OpenMix was made to find
    misclassified inputs; its OOD score here is `outlier_probability` or the largest softmax of the K classes.

    Args:
        logits: f(x) of ID inputs, shape (N, K + 1), N >= 1, K >= 2, unbounded.
        y: labels, shape (N,), integers in 0..K-1.
        logits_mixed: f of the mixtures, same shape.
        share: lambda, scalar in [0, 1], that the mixtures were made with.
        weight: of the mixtures' term, >= 0.

    Returns:
        Scalar >= 0. The cross-entropy of the ID inputs is in it.

    Raises:
        ValueError: shapes, labels, share or weight that do not fit.

    Differs from the authors' code: mixtures and ID inputs are as many; theirs cuts to the shorter batch.
    """
    check_labels(logits, y)
    if logits_mixed.shape != logits.shape:
        raise ValueError(
            f"`logits_mixed` must have the shape of `logits`, got {tuple(logits_mixed.shape)} and "
            f"{tuple(logits.shape)}. Mix every ID input with one outlier."
        )
    _check_share(share)
    check_weight(weight)
    part = share.to(logits)
    absent = torch.full_like(y, logits.shape[1] - 1)
    mixed = part * cross_entropy(logits_mixed, y) + (1 - part) * cross_entropy(logits_mixed, absent)
    return cross_entropy(logits, y) + weight * mixed


def _check_share(share: Tensor) -> None:
    """Raise ValueError unless `share` is a scalar in [0, 1]."""
    if share.ndim != 0 or not 0 <= share.item() <= 1:
        raise ValueError(f"`share` must be a scalar in [0, 1], got {share.tolist()}. Draw it with `mixing_share`.")
