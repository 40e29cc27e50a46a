"""Deep ensemble: Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles", NeurIPS 2017, arXiv:1612.01474; as attacked by Liang et al. 2020, appendix F."""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.net import check_net

SURE = -18.0  # log(1 - p) below which -log p is 1 - p to the last bit of float64


def log_entropy(log_p: Tensor) -> Tensor:
    """log of -sum_k p_k log p_k, from log-probabilities.

    -log p of the likeliest class is taken from the others' probabilities, and the products are summed as logarithms: an
    increasing function of the entropy that does not saturate where that is 0 to the last bit.

    Args:
        log_p: shape (B, K), K >= 2.

    Returns:
        Shape (B,), in (-inf, log log K].
    """
    top = one_hot(log_p.argmax(dim=1), log_p.shape[1]).bool()
    log_rest = log_p.masked_fill(top, -float("inf")).logsumexp(dim=1, keepdim=True)  # log(1 - p) of the likeliest
    unsure = (-torch.log1p(-log_rest.clamp(min=SURE).exp())).log()  # log(-log p)
    log_surprise = torch.where(log_rest > SURE, unsure, log_rest)
    terms = torch.where(top, log_surprise, (-log_p.masked_fill(top, -1.0)).log()) + log_p
    return terms.logsumexp(dim=1)


def mean_log_softmax(logits: Tensor) -> Tensor:
    """log of the mean softmax over members: (B, M, K) -> (B, K)."""
    return logits.log_softmax(dim=2).logsumexp(dim=1) - log(logits.shape[1])


class DeepEnsemble(nn.Module):
    """Entropy of the mean softmax of several networks, in nats.

    The entropy of confident inputs is almost 0, with a gradient as small. The surrogate is its logarithm.

    Args:
        nets: classifiers with the same classes, at least one.

    Raises:
        ValueError: no networks; when called, networks with other numbers of classes.

    Differs from the paper: any networks will do, trained with adversarial inputs or not.
    """

    name = "ensemble"
    of_logits = True

    def __init__(self, nets: Sequence[Classifier]) -> None:
        for net in nets:
            check_net(net, "logits")
        super().__init__()
        if not len(nets):
            raise ValueError("`nets` must have at least one classifier, got none. Pass a list of them.")
        self.nets = list(nets)
        self.members = nn.ModuleList(nets)  # so that they move with the detector
        self.surrogate = Surrogate("log of the entropy", self.log_entropy, exact=True)
        self.training = self.members.training = any(net.training for net in nets)

    def member_logits(self, x: Tensor) -> Tensor:
        """Logits of all members, shape (B, M, K)."""
        found = [net.logits(x) for net in self.nets]
        if len({logits.shape[1] for logits in found}) > 1 or found[0].shape[1] < 2:
            classes = [logits.shape[1] for logits in found]
            raise ValueError(
                f"`nets` must have the same classes, two at least, got {classes} logits. Train them on the same ones."
            )
        return torch.stack(found, dim=1)

    def latent(self, x: Tensor) -> Tensor:
        """Logits of all members side by side, shape (B, M K)."""
        return self.member_logits(x).flatten(1)

    def log_entropy(self, x: Tensor) -> Tensor:
        """log of the score, shape (B,)."""
        return log_entropy(mean_log_softmax(self.member_logits(x)))

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), in [0, log K]."""
        return self.log_entropy(x).exp()
