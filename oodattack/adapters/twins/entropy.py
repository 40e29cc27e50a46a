"""Logarithms in place of entropies: probabilities that the library cuts off at 1e-7 keep their slope there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oodattack.adapters.behind import Output
from oodattack.detector import Latent, Surrogate
from oodattack.detectors.ensemble import log_entropy
from oodattack.detectors.pnml import log_one_minus


def entropy(stock: Any) -> Surrogate:
    """Entropy: -sum_k p_k log p_k."""
    return Surrogate("logarithm of the entropy", OfLogits(Output(stock), of_entropy))


def generalised_entropy(stock: Any) -> Surrogate:
    """GEN: mean over the M largest p_k of p_k^gamma (1 - p_k)^gamma."""
    powers = Powers(stock.gamma, stock.M)
    return Surrogate("logarithm of the generalised entropy", OfLogits(Output(stock), powers))


@dataclass(frozen=True)
class OfLogits:
    """A function of logits on images; equal for equal parts."""

    logits: Latent
    f: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        return self.f(self.logits(x))


def of_entropy(logits: Tensor) -> Tensor:
    """log of -sum_k p_k log p_k, shape (B,)."""
    return log_entropy(logits.log_softmax(dim=1))


@dataclass(frozen=True)
class Powers:
    """log of sum_k p_k^gamma (1 - p_k)^gamma over the M likeliest classes, an increasing function of their mean."""

    gamma: float
    most: int | None

    def __call__(self, logits: Tensor) -> Tensor:
        """From logits (B, K), K >= 2: shape (B,)."""
        log_p = logits.log_softmax(dim=1).sort(dim=1, descending=True).values
        return (self.gamma * (log_p + log_one_minus(log_p)))[:, : self.most].logsumexp(dim=1)
