"""Score of Outlier Exposure: Hendrycks, Mazeika & Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
2019, arXiv:1812.04606."""

from torch import Tensor

from oodattack.detectors.msp import check_classes
from oodattack.detectors.net import OnLogits


def oe_score(logits: Tensor) -> Tensor:
    """mean_k f_k - logsumexp_k f_k: minus the cross-entropy of the softmax to the uniform distribution.

    Equal to the mean log-probability of the classes, which is largest where they are equally likely.

    Args:
        logits: shape (B, K), unbounded.

    Returns:
        OOD scores, shape (B,), <= -log K; equal to it for equal logits.
    """
    check_classes(logits)
    return logits.log_softmax(dim=1).mean(dim=1)


class OEScore(OnLogits):
    """Scores inputs by the mean log-probability of the classes, on a network trained with outliers or without.

    Differs from the paper: only the score is here, the training is the network's affair. Differs from the authors'
    code: nothing; it is their option beside the softmax, and the one that Liang et al. 2020 attack (appendix E).
    """

    name = "oe-score"

    def from_logits(self, logits: Tensor) -> Tensor:
        """See `oe_score`."""
        return oe_score(logits)
