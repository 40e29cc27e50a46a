"""Regret of the predictive normalised maximum likelihood: Bibas, Feder & Hassner, "Single Layer Predictive Normalized
Maximum Likelihood for Out-of-Distribution Detection", NeurIPS 2021, arXiv:2110.09246."""

from math import log

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot, softplus

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images
from oodattack.detectors.linear_head import batches_of_features, head_logits, head_of
from oodattack.detectors.net import OnNetwork


def log_one_minus(log_p: Tensor) -> Tensor:
    """log(1 - p_k) of every class, shape (B, K): of the likeliest from the others, so that it is never log 0."""
    top = one_hot(log_p.argmax(dim=1), log_p.shape[1]).bool()
    others = log_p.masked_fill(top, -float("inf")).logsumexp(dim=1, keepdim=True)
    return torch.where(top, others, torch.log1p(-log_p.masked_fill(top, -1.0).exp()))


def log_regret(logits: Tensor, projection: Tensor) -> Tensor:
    """log of sum_k p_k / (p_k + (1 - p_k) p_k^g) - 1, with g = q / (1 + q).

    As the p_k sum to 1 this is the sum of p_k (1 - p_k) (1 - p_k^g) / (p_k + (1 - p_k) p_k^g), whose terms are all
    >= 0: nothing cancels, and the logarithm is finite and has a gradient where the sum rounds to 0.

    Args:
        logits: shape (B, K), K >= 2.
        projection: q, shape (B,), >= 0.

    Returns:
        Shape (B,), finite; higher means more OOD.
    """
    tiny = torch.finfo(logits.dtype).tiny
    g = (projection / (1 + projection)).clamp(min=tiny)[:, None]
    log_p = logits.log_softmax(dim=1)
    log_rest = log_one_minus(log_p)
    log_p = log_p.clamp(max=-tiny)  # a likeliest class of p = 1 adds nothing, and must not be log 0
    power = g * log_p
    gain = (-torch.expm1(power).clamp(max=-tiny)).log()
    terms = log_p + log_rest + gain - torch.logaddexp(log_p, log_rest + power)
    return terms.logsumexp(dim=1)


class PNML(OnNetwork):
    """log sum_k p_k / (p_k + (1 - p_k) p_k^g) / log K: regret for not knowing the label, in units of log K.

    With unit features z = h / ||h||: p = softmax(W z + b), q = ||A^T z||^2 (z^T (sum_i z_i z_i^T)^+ z over training
    images), g = q / (1 + q). It is small for confident inputs, and for features along which the training set is rich.

    Confident inputs have regrets of almost 0. The surrogate is the logarithm of exp(regret) - 1.

    Args:
        net: classifier whose logits are those of an `nn.Linear` head.
        whitening: A, with A A^T the pseudo-inverse of the training features' moment, shape (D, rank).

    Raises:
        ValueError: a head that is not linear or has one class, or `whitening` of another number of features.

    Differs from the paper: higher means more OOD. Differs from the authors' code: they return 1 minus it.
    """

    name = "pnml"
    whitening: Tensor

    def __init__(self, net: Classifier, whitening: Tensor) -> None:
        super().__init__(net, "features")
        classes, width = head_of(net).weight.shape
        if classes < 2:
            raise ValueError("`net` must have at least 2 classes, got 1. Take another network.")
        if whitening.ndim != 2 or len(whitening) != width:
            found = tuple(whitening.shape)
            raise ValueError(f"`whitening` must have the shape ({width}, rank), got {found}. `fit_pnml` makes it.")
        self.register_buffer("whitening", whitening)
        self.surrogate = Surrogate("log(exp(regret) - 1)", self.log_regret, exact=True)

    def latent(self, x: Tensor) -> Tensor:
        """Unit features, shape (B, D)."""
        return normalize(self.net.features(x), dim=1)

    def log_regret(self, x: Tensor) -> Tensor:
        """log(exp(regret) - 1), shape (B,), unbounded."""
        z = self.latent(x)
        return log_regret(head_logits(self.net, z), (z @ self.whitening.to(z)).square().sum(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), in [0, 1]."""
        return softplus(self.log_regret(x)) / log(len(head_of(self.net).weight))


def fit_pnml(net: Classifier, x: Images, *, rcond: float = 1e-10, batch_size: int = BATCH_SIZE) -> PNML:
    """Moment of the unit features of ID training images, and its pseudo-inverse.

    Args:
        net: classifier.
        x: images (N, C, H, W) in [0, 1], or batches of them; see `batches`.
        rcond: directions whose eigenvalue is at most this share of the largest are left out of the pseudo-inverse.
        batch_size: images per forward pass.

    Raises:
        ValueError: no images, a head that is not linear, or `rcond` out of range.

    Differs from the authors' code: their `rcond` is 1e-15, below what features in float32 can tell from 0; an unused
    feature that rounds to another value than 0 would then outweigh all others.
    """
    if not 0 <= rcond < 1:
        raise ValueError(f"`rcond` must be in [0, 1), got {rcond}. Leave it out for 1e-10.")
    weight = head_of(net).weight
    moment = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    with torch.no_grad():
        for h in batches_of_features(net, x, batch_size):
            z = normalize(h.double(), dim=1)
            moment += z.T @ z
        values, vectors = torch.linalg.eigh(moment)
        kept = values > max(rcond * float(values[-1]), 0.0)
        return PNML(net, (vectors[:, kept] / values[kept].sqrt()).to(weight))
