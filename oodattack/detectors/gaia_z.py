"""GAIA-Z, zero-deflation abnormality: Chen et al., "GAIA: Delving into Gradient-based Attribution Abnormality for
Out-of-distribution Detection", NeurIPS 2023, arXiv:2311.09620."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.layer_gradients import SignPath, check_layers, norms, per_channel, sign_steps, top_logit
from oodattack.detectors.net import OnNetwork
from oodattack.detectors.soft_density import SoftDensity, SoftLatent


class GaiaZ(OnNetwork):
    """mean over channels of d^2, d = share of positions where d(max logit)/d(norm output) is not exactly zero.

    Args:
        net: classifier with norm layers.
        layers: names of norm layers. Default: all of them, shortcut ones included.

    With ReLU, ReLU6, Hardtanh or Hardswish this is the share of positions that those leave open. Behind a LeakyReLU or
    PReLU no gradient is zero: the score is 1 on every input, and its surrogate raises ValueError. Behind GELU, SiLU,
    ELU, Tanh or Sigmoid gradients are zero only where rounding makes them so, far from z = 0: the score is 1 on most
    networks, and differs between float32 and float64 on the others.

    Differs from the paper: the mean instead of a Frobenius norm, as in the authors' code (same order of scores);
    higher means more OOD where the code negates.
    """

    name = "gaia-z"
    path = SignPath()

    def __init__(self, net: Classifier, *, layers: Sequence[str] | None = None) -> None:
        super().__init__(net, "run")
        self.layers = tuple(check_layers(net, layers, net.norm_layers))
        soft = SoftDensity(net, self.layers)
        self.surrogate = Surrogate(f"soft activation density, beta = {soft.beta:g}", soft, SoftLatent(soft))

    def latent(self, x: Tensor) -> Tensor:
        """Densities of all channels of all layers, concatenated: shape (B, channels), in [0, 1]. No gradient."""
        quantity = None if self.path.delta_weighted else top_logit
        _, found = sign_steps(self.net, x, self.layers, quantity, self.path)
        shares = [g if self.path.per_step else (g != 0).to(x.dtype) for g in found]
        pairs = zip(shares, norms(self.net, self.layers), strict=True)
        return torch.cat([per_channel(share, norm).mean(2) for share, norm in pairs], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), in [0, 1]. No gradient: use the surrogate."""
        return self.latent(x).square().mean(dim=1)
