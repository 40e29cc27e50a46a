"""Maximum logit: Hendrycks et al., "Scaling OOD Detection for Real-World Settings", arXiv:1911.11132."""

from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.net import OnNetwork


def max_logit(logits: Tensor) -> Tensor:
    """-max_k f_k(x), section 3 (the anomaly score called MaxLogit).

    Args:
        logits: shape (B, K), unbounded.

    Returns:
        OOD scores, shape (B,), unbounded.
    """
    return -logits.amax(dim=1)


class MaxLogit(OnNetwork):
    """Scores inputs by the negative of the largest logit."""

    name = "max-logit"
    of_logits = True

    def __init__(self, net: Classifier) -> None:
        super().__init__(net, "logits")
        self.latent = net.logits

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return max_logit(self.net.logits(x))
