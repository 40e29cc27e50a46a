"""Log-odds of an outlier class, the score of networks that were trained with one.

Jiang et al., "DOS: Diverse Outlier Sampling for Out-of-Distribution Detection", ICLR 2024, arXiv:2306.02031; also for
OpenMix: Zhu et al., CVPR 2023, arXiv:2303.17093.
"""

from torch import Tensor

from oodattack.detectors.msp import check_classes
from oodattack.detectors.net import OnLogits


def outlier_log_odds(logits: Tensor) -> Tensor:
    """f_K - log sum_{c < K} exp(f_c) = log p_K - log(1 - p_K), p the softmax of K + 1 logits.

    Args:
        logits: shape (B, K + 1), unbounded; the last column is the outlier class.

    Returns:
        OOD scores, shape (B,), unbounded.
    """
    check_classes(logits)
    return logits[:, -1] - logits[:, :-1].logsumexp(dim=1)


class OutlierClass(OnLogits):
    """Scores inputs by the log-odds of a network's last class, which is that of outliers.

    Args:
        net: classifier with one output more than classes, the last one for outliers.

    Differs from the paper: log-odds in place of the probability, so that nothing saturates; the order is the same.
    """

    name = "outlier-class"

    def from_logits(self, logits: Tensor) -> Tensor:
        """See `outlier_log_odds`."""
        return outlier_log_odds(logits)
