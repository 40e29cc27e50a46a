"""Interval exposure, the loss on outliers of GOOD.

Bitterwolf, Meinke & Hein, "Certifiably Adversarially Robust Detection of Out-of-Distribution Data", NeurIPS 2020,
arXiv:2007.08473.
"""

from torch import Tensor


def interval_exposure(differences: Tensor) -> Tensor:
    """mean_b log(1 + max_kl u_kl^2 / 2), eq. (8) of Bitterwolf et al. 2020.

    u_kl bounds f_k - f_l from above on a ball around an outlier, so that its largest entry bounds how confident the
    classifier can be made there, eq. (7). Quadratic for small differences, logarithmic for large ones. The caller
    applies the weight.

    Args:
        differences: u of every outlier, shape (M, K, K), M >= 1, K >= 2; the diagonal is 0.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: `differences` has another shape.

    Differs from the paper: every outlier counts, GOOD_100 there; GOOD_80 spares the hardest fifth of a batch, eq. (10).
    Differs from the authors' code: not compared.
    """
    shape = tuple(differences.shape)
    if len(shape) != 3 or shape[0] == 0 or shape[1] != shape[2] or shape[1] < 2:
        raise ValueError(
            f"`differences` must have shape (M, K, K) with M >= 1 and K >= 2, got {shape}. Pass bounds of f_k - f_l."
        )
    return (differences.flatten(1).amax(dim=1).square() / 2).log1p().mean()
