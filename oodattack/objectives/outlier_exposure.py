"""Outlier exposure (OE): Hendrycks, Mazeika & Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019,
arXiv:1812.04606."""

from torch import Tensor


def outlier_exposure(logits_aux: Tensor) -> Tensor:
    """mean_b [log sum_c exp(f_c) - mean_c f_c], the loss on outliers of Hendrycks et al. 2019 for classifiers.

    This is the cross-entropy from the uniform distribution to softmax f, exactly: -mean_c log softmax_c = LSE(f) -
    mean_c f_c. It exceeds the Kullback-Leibler divergence KL(uniform || softmax f) by the constant log C, so its least
    value is log C, reached where all logits are equal. The caller applies the weight, 0.5 in the authors' code.

    Args:
        logits_aux: logits of auxiliary outliers, shape (M, C), M >= 1, C >= 2, unbounded.

    Returns:
        Scalar >= log C.

    Raises:
        ValueError: `logits_aux` has another shape.

    Differs from the paper: nothing.   Differs from the authors' code: nothing.
    """
    if logits_aux.ndim != 2 or len(logits_aux) == 0 or logits_aux.shape[1] < 2:
        raise ValueError(
            f"`logits_aux` must have shape (M, C) with M >= 1 and C >= 2, got {tuple(logits_aux.shape)}. "
            "Pass one row of logits an outlier."
        )
    return (logits_aux.logsumexp(dim=1) - logits_aux.mean(dim=1)).mean()
