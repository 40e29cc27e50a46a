"""WeightedEBO by `logsumexp`: the same score, without the overflow of exp(logits) that spoils its gradient."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oodattack.adapters.behind import Output
from oodattack.adapters.twins.entropy import OfLogits
from oodattack.detector import Surrogate


def weighted_energy(stock: Any) -> Surrogate:
    """WeightedEBO: -log sum_k w_k exp(f_k(x))."""
    return Surrogate("own score by logsumexp", OfLogits(Output(stock), Energy(stock)), exact=True)


@dataclass(frozen=True)
class Energy:
    """-logsumexp_k(f_k + log max(w_k, 0))."""

    stock: Any

    def __call__(self, logits: Tensor) -> Tensor:
        """From logits (B, K): shape (B,)."""
        weights: Tensor = self.stock.weights.detach().to(logits.device).relu()
        return -(logits + weights.log()).logsumexp(dim=1)
