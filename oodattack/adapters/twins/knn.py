"""KNN in torch: distances to the k nearest neighbours, from the features that scikit-learn was given."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.adapters.behind import Output
from oodattack.detector import Surrogate
from oodattack.detectors.straight_through import with_gradient_of

EXACT = "donot_use_mm_for_euclid_dist"  # differences of squares lose what near neighbours differ by


def nearest(stock: Any) -> Surrogate | None:
    """KNN, whose score is ||z - z_(k)||_2; None where the user chose another metric."""
    if stock.knn.metric not in ("minkowski", "euclidean") or stock.knn.p != 2:
        return None
    return Surrogate("own score in torch, sloped by the mean of the k nearest", Distances(stock), exact=True)


@dataclass(frozen=True)
class Distances:
    """Euclidean distance of prepared features to the k-th nearest of those that were fitted, with the derivative of
    the mean over the k nearest; see `detectors.knn.knn_by_mean`."""

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        z = self.stock._prepare(Output(self.stock, ("encoder",))(x))
        bank = torch.as_tensor(self.stock.knn._fit_X, dtype=z.dtype, device=z.device)
        distances = torch.cdist(z, bank, compute_mode=EXACT).topk(self.stock.k, dim=1, largest=False).values
        return with_gradient_of(distances[:, -1].detach(), distances.mean(dim=1))
