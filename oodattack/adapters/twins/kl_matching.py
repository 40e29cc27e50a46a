"""KLMatching from log-probabilities: the same score, with a finite gradient where a probability is 0."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.adapters.behind import Output
from oodattack.adapters.twins.entropy import OfLogits
from oodattack.detector import Surrogate


def kl_matching(stock: Any) -> Surrogate:
    """KLMatching: min_k KL(p || d_k)."""
    return Surrogate("own score from log-probabilities", OfLogits(Output(stock), Divergence(stock)), exact=True)


@dataclass(frozen=True)
class Divergence:
    """min_k sum_c p_c (log p_c - log d_kc), with d_k the mean probabilities where class k was predicted."""

    stock: Any

    def __call__(self, logits: Tensor) -> Tensor:
        """From logits (B, C): shape (B,)."""
        log_p = logits.log_softmax(dim=1)
        d = torch.stack([d.to(log_p.device) for d in self.stock.dists.values()])
        log_d = d.log().clamp(min=torch.finfo(d.dtype).min)
        p = log_p.exp()
        return ((p * log_p).sum(dim=1, keepdim=True) - p @ log_d.T).amin(dim=1)
