"""What attacks follow in place of OpenOOD's scores in NumPy, and of the largest softmax, which saturates.

They read what `setup` has left in a postprocessor. All others have a gradient once their graph is kept, or none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodattack.detector import Surrogate
from oodattack.detectors.msp import log_odds_surrogate
from oodattack.detectors.straight_through import with_gradient_of


@dataclass(frozen=True)
class Logits:
    """The network's logits of normalised images; equal for equal detectors.

    Attributes:
        owner: an `OpenOOD`.
    """

    owner: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B, K)."""
        logits: Tensor = self.owner.network(self.owner.normalised(x))
        return logits


@dataclass(frozen=True)
class Features:
    """The network's features, which OpenOOD asks for by `return_feature=True`."""

    owner: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B, D)."""
        features: Tensor = self.owner.network(self.owner.normalised(x), return_feature=True)[1]
        return features


@dataclass(frozen=True)
class Neighbours:
    """KNN: squared distance of normed features to the k-th nearest of the training features, with the derivative of
    the mean over the k nearest; see `detectors.knn.knn_by_mean`."""

    owner: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        z = Features(self.owner)(x)
        z = z / torch.linalg.vector_norm(z, dim=1, keepdim=True) + 1e-10  # where the library adds it
        fitted = self.owner.postprocessor
        bank = torch.as_tensor(fitted.activation_log).to(z)
        k = fitted.K if hasattr(fitted, "K") else fitted.args.K  # a search over K leaves it in the first
        distance: Tensor = torch.cdist(z, bank, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.topk(k, dim=1, largest=False).values.square()
        return with_gradient_of(nearest[:, -1].detach(), nearest.mean(dim=1))


@dataclass(frozen=True)
class VirtualLogit:
    """ViM: alpha ||(z - u) NS||_2 - logsumexp(z W^T + b)."""

    owner: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        z = Features(self.owner)(x)
        fitted = vars(self.owner.postprocessor)
        w, b, u, residual = (torch.as_tensor(fitted[key]).to(z) for key in ("w", "b", "u", "NS"))
        virtual: Tensor = torch.linalg.vector_norm((z - u) @ residual, dim=1) * float(fitted["alpha"])
        energy: Tensor = (z @ w.T + b).logsumexp(dim=1)
        return virtual - energy


def of_maximum(owner: Any) -> Surrogate:
    """MSP: -max_k softmax_k."""
    return log_odds_surrogate(Logits(owner))


def of_neighbours(owner: Any) -> Surrogate:
    """KNN, in NumPy."""
    return Surrogate("own score in torch, sloped by the mean of the k nearest", Neighbours(owner), exact=True)


def of_virtual_logit(owner: Any) -> Surrogate:
    """ViM, in NumPy."""
    return Surrogate("own score in torch", VirtualLogit(owner), exact=True)


TWINS: dict[str, Callable[[Any], Surrogate]] = {  # class of OpenOOD -> its twin
    "BasePostprocessor": of_maximum,
    "KNNPostprocessor": of_neighbours,
    "VIMPostprocessor": of_virtual_logit,
}
