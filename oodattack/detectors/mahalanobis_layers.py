"""Mahalanobis distance over several layers with input preprocessing: Lee et al., NeurIPS 2018, arXiv:1807.03888."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from oodattack.classifier import Classifier, channel_mean
from oodattack.detectors.batches import BATCH_SIZE, Images, labelled
from oodattack.detectors.default_stages import stages_for
from oodattack.detectors.mahalanobis import Gaussians, class_distances, gaussians_of
from oodattack.detectors.moments import class_moments
from oodattack.detectors.net import OnNetwork, check_net
from oodattack.detectors.odin import signed_step


class MahalanobisLayers(OnNetwork):
    """Mean over layers of the distance to the nearest class, each of an input moved towards it; Alg. 1.

    For layer l: x_l = x - magnitude * sign(grad_x d_l(x)), score = mean_l d_l(x_l), where d_l is the squared
    Mahalanobis distance of the layer's channel means to the nearest class mean. See `fit_mahalanobis_layers`. With
    `weights` the score is sum_l w_l d_l(x_l), see `fit_layer_weights`.

    Args:
        net: classifier.
        layers: names of modules with outputs of shape (B, C, H, W).
        gaussians: one per layer.
        magnitude: length of the preprocessing step, >= 0, in [0, 1] input units; 0 leaves it out.
        weights: w, shape (layers,), of any sign; None for the mean.

    Raises:
        ValueError: not one Gaussian and one finite weight a layer, or a negative magnitude.

    Differs from the paper: by default layers are averaged, not weighted by a logistic regression that has seen OOD data
    (as Liang et al. 2020 read it, "average of the distances"); no factor 1/2.
    """

    name = "mahalanobis-layers"
    weights: Tensor | None

    def __init__(
        self,
        net: Classifier,
        layers: Sequence[str],
        gaussians: Sequence[Gaussians],
        *,
        magnitude: float,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(net, "run")
        if len(layers) != len(gaussians):
            raise ValueError(
                f"`gaussians` must be one per layer, got {len(gaussians)} for {len(layers)} layers. "
                "`fit_mahalanobis_layers` makes them."
            )
        if not magnitude >= 0:
            raise ValueError(f"`magnitude` must be >= 0, got {magnitude}. Give 0 for no step.")
        if weights is not None and (weights.shape != (len(layers),) or not weights.isfinite().all()):
            raise ValueError(
                f"`weights` must be one finite number a layer, {len(layers)}, got {weights.tolist()}. "
                "`fit_layer_weights` finds them."
            )
        self.layers = list(layers)
        self.magnitude = magnitude
        for i, fitted in enumerate(gaussians):
            self.register_buffer(f"means{i}", fitted.means)
            self.register_buffer(f"precision{i}", fitted.precision)
        self.register_buffer("weights", weights)

    @property
    def gaussians(self) -> list[Gaussians]:
        """Means (K, C_l) and precision (C_l, C_l), one pair a layer."""
        rows = range(len(self.layers))
        return [Gaussians(self.get_buffer(f"means{i}"), self.get_buffer(f"precision{i}")) for i in rows]

    def _features(self, x: Tensor, i: int) -> Tensor:
        return channel_mean(self.net.run(x, watch=[self.layers[i]]).outputs[self.layers[i]])

    def _class_distances(self, z: Tensor, i: int) -> Tensor:
        # in float64: channels of a stem are nearly dependent, and their products cancel to tens of per cent in float32
        return class_distances(z.double(), self.gaussians[i]).to(z.dtype)

    def _distance(self, z: Tensor, i: int) -> Tensor:
        return self._class_distances(z, i).amin(dim=1)

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
        """OOD scores, shape (B,), >= 0 unless a weight is negative."""
        distances = self.distances(x)
        return distances.mean(dim=1) if self.weights is None else distances @ self.weights.to(distances)

    def distances(self, x: Tensor) -> Tensor:
        """d_l(x_l), shape (B, layers), >= 0."""
        return torch.stack([self._distance(z, i) for i, z in enumerate(self._latents(x))], dim=1)

    def class_scores(self, x: Tensor) -> Tensor:
        """Minus the score that x would have if every layer had to be near the same class, shape (B, K)."""
        each = torch.stack([self._class_distances(z, i) for i, z in enumerate(self._latents(x))], dim=2)
        return -each.mean(dim=2) if self.weights is None else -(each @ self.weights.to(each))


def fit_mahalanobis_layers(
    net: Classifier,
    x: Images,
    y: Tensor | None = None,
    *,
    layers: Sequence[str] | None = None,
    magnitude: float = 0.0014,
    batch_size: int = BATCH_SIZE,
) -> MahalanobisLayers:
    """Fit on training images with true labels, one batch at a time.

    Args:
        net: classifier.
        x: images (N, C, H, W) in [0, 1], or batches of images and labels; see `batches`.
        y: labels of a tensor `x`, shape (N,); None if `x` yields them.
        layers: names of modules. Default: the stem and the outputs of all stages, as the paper does for ResNets.
        magnitude: see `MahalanobisLayers`.
        batch_size: images per forward pass.

    Raises:
        ValueError: as `fit_mahalanobis`, an unknown layer, or a network without named stages.
    """
    check_net(net, "run")
    call = "fit_mahalanobis_layers(net, x, y, layers=[...])"
    layers = stages_for(net, call) if layers is None else list(layers)
    widths: list[int] = []

    def features() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, labels in labelled(x, y, net=net, batch_size=batch_size):
            with torch.no_grad():
                outputs = net.run(rows, watch=layers).outputs
            found = [channel_mean(outputs[name]) for name in layers]
            widths[:] = [z.shape[1] for z in found]
            yield torch.cat(found, dim=1), labels

    moments = class_moments(features())  # of all layers side by side: theirs are blocks of it
    parts = [slice(end - width, end) for end, width in zip(accumulate(widths), widths, strict=True)]
    blocks = [moments._replace(means=moments.means[:, p], scatter=moments.scatter[p, p]) for p in parts]
    return MahalanobisLayers(net, layers, [gaussians_of(block) for block in blocks], magnitude=magnitude)
