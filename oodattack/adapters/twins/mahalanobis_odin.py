"""MahalanobisODIN with a graph from the score to the image: the same score, its sign step a constant."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.detector import Surrogate


def preprocessed_distance(stock: Any) -> Surrogate:
    """MahalanobisODIN: half the smallest squared distance of features, after a step along the sign of its gradient."""
    return Surrogate("own score, straight through the preprocessing", Distance(stock), exact=True)


@dataclass(frozen=True)
class Distance:
    """min_k (f(x') - mu_k)^T P (f(x') - mu_k) / 2 at x' = x - eps sign(grad of the same at x)."""

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self._half_squared(leaf).sum(), leaf)
        step = gradient.sign()
        if self.stock.norm_std:
            step = step / torch.tensor(self.stock.norm_std, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
        return self._half_squared(x - self.stock.eps * step)

    def _half_squared(self, x: Tensor) -> Tensor:
        base = self.stock._base
        z = base.encoder(x)
        off = z.reshape(len(z), z.shape[1], -1).mean(dim=2)[:, None] - base.mu
        half: Tensor = 0.5 * ((off @ base.precision) * off).sum(dim=2)
        return half.amin(dim=1)
