"""GradNorm: Huang, Geng & Li, "On the Importance of Gradients for Detecting Distributional Shifts in the Wild",
NeurIPS 2021, arXiv:2110.00218."""

import math

import torch
from torch import Tensor
from torch.nn.functional import relu

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.linear_head import features_of, head_logits, head_of
from oodattack.detectors.msp import check_classes
from oodattack.detectors.net import OnNetwork
from oodattack.detectors.straight_through import with_gradient_of

SLOPE = 1e-3  # share of `gap_log_odds` in the surrogate's gradient; with 0.1 attacks neglect ||h||_1 and reach less
TINY = 1e-30  # keeps logarithms finite where all features are 0 or all classes equally likely


def confidence_gap(logits: Tensor) -> Tensor:
    """||p - 1/K||_1 of p = softmax(logits), shape (B,), in [0, 2 - 2/K]: 0 where all classes are equally likely."""
    check_classes(logits)
    return (logits.softmax(dim=1) - 1 / logits.shape[1]).abs().sum(dim=1)


def gap_log_odds(logits: Tensor) -> Tensor:
    """log(g / (2 - 2/K - g)) of g = `confidence_gap`: increases with g, and does not saturate.

    With A the classes of p >= 1/K, the denominator is 2 (sum of p outside A + (|A| - 1)/K), a sum of small positive
    numbers, taken in log space.

    Args:
        logits: shape (B, K), K >= 2.

    Returns:
        Shape (B,), unbounded.
    """
    log_p = logits.log_softmax(dim=1)
    above = log_p >= -math.log(logits.shape[1])
    outside = log_p.masked_fill(above, -float("inf")).logsumexp(dim=1)
    further = (relu(above.to(log_p.dtype).sum(dim=1) - 1) / logits.shape[1]).log()
    room = torch.logaddexp(outside, further)  # never both -inf
    return (confidence_gap(logits) / 2 + TINY).log() - room


def gradnorm(h: Tensor, logits: Tensor) -> Tensor:
    """-||h||_1 ||p - 1/K||_1 = -||dL/dW||_1, L = cross-entropy from the uniform distribution, W the head's weight.

    dL/dW = (p - 1/K) h^T, so that no gradient has to be taken.

    Args:
        h: input of the head, shape (B, D).
        logits: its output, shape (B, K).

    Returns:
        OOD scores, shape (B,), <= 0.
    """
    return -h.abs().sum(dim=1) * confidence_gap(logits)


class GradNorm(OnNetwork):
    """Minus the length of the gradient that a step towards the uniform distribution would have; see `gradnorm`.

    Where the network is confident ||p - 1/K||_1 is at its upper end and has no gradient to speak of: that of ||h||_1 is
    left, or none if features are normalised. The surrogate has the same values, with the gradient of the logarithm of
    the score plus `SLOPE` times that of `gap_log_odds`.

    Args:
        net: classifier whose logits are those of an `nn.Linear` head.

    Differs from the paper: higher means more OOD; temperature 1. Differs from OpenOOD: the target is 1/K for each
    class, not 1, a factor of K.
    """

    name = "gradnorm"

    def __init__(self, net: Classifier) -> None:
        super().__init__(net, "features")
        head_of(net)
        self.checked = False  # whether the head's output is the logits, which takes an image
        self.latent = net.features
        self.surrogate = Surrogate(f"score with {SLOPE:g} of the gradient of its log-odds", self.soft, exact=True)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), <= 0.

        Raises:
            ValueError: a head whose output is not the logits.
        """
        h = self.net.features(x)
        logits = head_logits(self.net, h)
        if not self.checked:
            features_of(self.net, x[:1], check=True)
            self.checked = True
        return gradnorm(h, logits)

    def soft(self, x: Tensor) -> Tensor:
        """The scores, shape (B,), with a gradient that does not saturate."""
        h = self.net.features(x)
        logits = head_logits(self.net, h)
        score = gradnorm(h, logits)
        steep = -(TINY - score).log() - SLOPE * gap_log_odds(logits)
        return with_gradient_of(score.detach(), steep)
