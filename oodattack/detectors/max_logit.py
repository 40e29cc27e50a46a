"""Maximum logit: Hendrycks et al., "Scaling OOD Detection for Real-World Settings", arXiv:1911.11132."""

from torch import Tensor, nn

from oodattack.classifier import Classifier
from oodattack.detectors.net import check_net


def max_logit(logits: Tensor) -> Tensor:
    """-max_k f_k(x), section 3 (the anomaly score called MaxLogit).

    Args:
        logits: shape (B, K), unbounded.

    Returns:
        OOD scores, shape (B,), unbounded.
    """
    return -logits.amax(dim=1)


class MaxLogit(nn.Module):
    """Scores inputs by the negative of the largest logit."""

    name = "max-logit"
    of_logits = True

    def __init__(self, net: Classifier) -> None:
        check_net(net, "logits")
        super().__init__()
        self.net = net
        self.latent = net.logits
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return max_logit(self.net.logits(x))
