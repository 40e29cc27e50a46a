"""OpenMax in torch: Bendale & Boult, "Towards Open Set Deep Networks", arXiv:1511.06233, as the library computes it.

A row's score depends on its batch: the distance to a class that no row of the batch is predicted as counts as 0. So it
is here, on the batch at hand.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.adapters.behind import Output
from oodattack.adapters.twins.entropy import OfLogits
from oodattack.detector import Surrogate

UNSEEN = 1e12  # distance to a class that was not seen while fitting
LARGEST_ACTIVATION = 709.0  # larger activations are cut off


def openmax(stock: Any) -> Surrogate:
    """OpenMax: probability of the unknown class; here its log-odds."""
    return Surrogate("log-odds of the unknown class", OfLogits(Output(stock), Revised(stock)), exact=True)


@dataclass(frozen=True)
class Revised:
    """log(p_0 / (1 - p_0)) of the revised activations, an increasing function of the score p_0."""

    stock: Any

    def __call__(self, logits: Tensor) -> Tensor:
        """From logits (B, K): shape (B,)."""
        layer, f = self.stock._openmax, logits.double()
        present = set(logits.argmax(dim=1).tolist())
        w = torch.stack([self._outlying(logits, c, c in present) for c in range(logits.shape[1])], dim=1)
        ranks = logits.argsort(dim=1, descending=True)[:, : layer.alpha]
        weights = torch.arange(layer.alpha, 0, -1, device=f.device, dtype=f.dtype) / layer.alpha
        ranked = torch.zeros_like(f).scatter(1, ranks, weights.expand(len(f), -1)[:, : ranks.shape[1]])
        known = (f * (1 - w * ranked)).clamp(max=LARGEST_ACTIVATION)
        unknown = (f * w * ranked).sum(dim=1).clamp(max=LARGEST_ACTIVATION)
        return (unknown - known.logsumexp(dim=1)).to(logits.dtype)

    def _outlying(self, logits: Tensor, c: int, present: bool) -> Tensor:
        """Weibull probability that the distance to the centre of class c is an outlier's, shape (B,), float64."""
        layer = self.stock._openmax
        if c not in layer.distributions:
            return torch.ones_like(logits[:, 0], dtype=torch.float64)
        fitted = layer.distributions[c]
        d = self._distance(logits, c).double() if present else torch.zeros_like(logits[:, 0], dtype=torch.float64)
        scaled = (d + fitted.translation - float(fitted.min_val)) / float(fitted.scale)
        below: Tensor = (float(fitted.c) * scaled.log()).exp()
        return -torch.expm1(-below)

    def _distance(self, logits: Tensor, c: int) -> Tensor:
        """Weighted sum of Euclidean and cosine distance to the centre of class c, shape (B,)."""
        layer = self.stock._openmax
        if c not in layer.centers:
            return torch.full_like(logits[:, 0], UNSEEN)
        centre = torch.as_tensor(layer.centers[c], dtype=logits.dtype, device=logits.device)
        euclidean: Tensor = torch.linalg.vector_norm(logits - centre, dim=1)
        if layer.cos_weight == 0:
            return euclidean
        cosine = 1 - (logits @ centre) / (torch.linalg.vector_norm(logits, dim=1) * centre.norm())
        weighted: Tensor = layer.cos_weight * cosine + layer.euclid_weight * euclidean
        return weighted
