"""Mahalanobis distance over several layers with input preprocessing: Lee et al., NeurIPS 2018, arXiv:1807.03888."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodattack.detector import Classifier, channel_mean
from oodattack.detectors.mahalanobis import Gaussians, fit_gaussians, mahalanobis
from oodattack.detectors.odin import signed_step


class MahalanobisLayers(nn.Module):
    """Mean over layers of the distance to the nearest class, each of an input moved towards it; Alg. 1.

    For layer l: x_l = x - magnitude * sign(grad_x d_l(x)), score = mean_l d_l(x_l), where d_l is the squared
    Mahalanobis distance of the layer's channel means to the nearest class mean. See `fit_mahalanobis_layers`.

    Args:
        net: classifier.
        layers: names of modules with outputs of shape (B, C, H, W).
        gaussians: one per layer.
        magnitude: length of the preprocessing step, >= 0, in [0, 1] input units; 0 leaves it out.

    Differs from the paper: layers are averaged, not weighted by a logistic regression that has seen OOD data (as
    Liang et al. 2020 read it, "average of the distances"); no factor 1/2.
    """

    name = "mahalanobis-layers"

    def __init__(
        self, net: Classifier, layers: Sequence[str], gaussians: Sequence[Gaussians], *, magnitude: float
    ) -> None:
        super().__init__()
        if len(layers) != len(gaussians):
            raise ValueError(f"`gaussians` must be one per layer, got {len(gaussians)} for {len(layers)} layers.")
        if magnitude < 0:
            raise ValueError(f"`magnitude` must be >= 0, got {magnitude}.")
        self.net = net
        self.layers = list(layers)
        self.magnitude = magnitude
        for i, fitted in enumerate(gaussians):
            self.register_buffer(f"means{i}", fitted.means)
            self.register_buffer(f"precision{i}", fitted.precision)
        self.training = net.training

    def _features(self, x: Tensor, i: int) -> Tensor:
        return channel_mean(self.net.run(x, watch=[self.layers[i]]).outputs[self.layers[i]])

    def _distance(self, z: Tensor, i: int) -> Tensor:
        return mahalanobis(z, Gaussians(self.get_buffer(f"means{i}"), self.get_buffer(f"precision{i}")))

    def _latents(self, x: Tensor) -> list[Tensor]:
        if self.magnitude == 0:
            outputs = self.net.run(x, watch=self.layers).outputs
            return [channel_mean(outputs[name]) for name in self.layers]

        def moved(i: int) -> Tensor:
            return signed_step(lambda z: self._distance(self._features(z, i), i), x, self.magnitude)

        return [self._features(moved(i), i) for i in range(len(self.layers))]

    def latent(self, x: Tensor) -> Tensor:
        """Channel means of all layers, each of its own preprocessed input, concatenated: shape (B, sum of C_l)."""
        return torch.cat(self._latents(x), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0."""
        return torch.stack([self._distance(z, i) for i, z in enumerate(self._latents(x))]).mean(dim=0)


def fit_mahalanobis_layers(
    net: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    layers: Sequence[str] | None = None,
    magnitude: float = 0.0014,
    batch_size: int = 256,
) -> MahalanobisLayers:
    """Fit on training images x (N, C, H, W) in [0, 1] with true labels y (N,).

    Args:
        net: classifier.
        x: training images.
        y: their labels.
        layers: names of modules. Default: the stem and the outputs of all stages, as the paper does for ResNets.
        magnitude: see `MahalanobisLayers`.
        batch_size: images per forward pass.

    Raises:
        ValueError: a class without samples, an unknown layer, or a network without named stages.
    """
    layers = net.stages() if layers is None else list(layers)
    with torch.no_grad():
        outputs = [net.run(rows, watch=layers).outputs for rows in x.split(batch_size)]
    fitted = [fit_gaussians(torch.cat([channel_mean(o[name]) for o in outputs]), y) for name in layers]
    return MahalanobisLayers(net, layers, fitted, magnitude=magnitude)
