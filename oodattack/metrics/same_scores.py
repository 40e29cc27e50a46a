"""Whether scores are equal but for rounding."""

from torch import Tensor


def same_scores(a: Tensor, b: Tensor, known: Tensor) -> bool:
    """max |a - b| <= 1e-3 (max known - min known) + 1e-5 max |known|: what another composition of batches may do.

    Args:
        a: shape (N,).
        b: shape (N,).
        known: scores by whose spread and size that is measured, shape (M,), M >= 1.

    Returns:
        False where a known score, or a difference, is not finite: nothing is known to be equal.
    """
    known = known.double()
    slack = 1e-3 * (known.max() - known.min()) + 1e-5 * known.abs().max()
    return bool(slack.isfinite() and ((a.double() - b.double()).abs() <= slack).all())
