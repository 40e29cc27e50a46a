"""Maximum logit: Hendrycks et al., "Scaling OOD Detection for Real-World Settings", arXiv:1911.11132."""

from torch import Tensor

from oodattack.detectors.net import OnLogits


def max_logit(logits: Tensor) -> Tensor:
    """-max_k f_k(x), section 3 (the anomaly score called MaxLogit).

    Args:
        logits: shape (B, K), unbounded.

    Returns:
        OOD scores, shape (B,), unbounded.
    """
    return -logits.amax(dim=1)


class MaxLogit(OnLogits):
    """Scores inputs by the negative of the largest logit."""

    name = "max-logit"

    def from_logits(self, logits: Tensor) -> Tensor:
        """See `max_logit`."""
        return max_logit(logits)
