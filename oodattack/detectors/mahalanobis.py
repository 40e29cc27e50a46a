"""Mahalanobis distance on penultimate features: Lee et al., NeurIPS 2018, arXiv:1807.03888."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.batches import BATCH_SIZE, Images, labelled
from oodattack.detectors.moments import ClassMoments, class_moments, precision
from oodattack.detectors.net import OnNetwork, check_net


class Gaussians(NamedTuple):
    """One Gaussian a class with a shared covariance."""

    means: Tensor  # (K, D)
    precision: Tensor  # (D, D)


def gaussians_of(moments: ClassMoments) -> Gaussians:
    """Class means and the inverse of the covariance pooled over classes, eq. (1) of Lee et al. 2018.

    Raises:
        ValueError: no feature varies within a class.
    """
    return Gaussians(moments.means, precision(moments))


def mahalanobis(z: Tensor, gaussians: Gaussians) -> Tensor:
    """min_k (z - mu_k)^T P (z - mu_k), eq. (2) of Lee et al. 2018 with the sign turned.

    Args:
        z: features, shape (B, D).
        gaussians: fitted means (K, D) and precision (D, D).

    Returns:
        OOD scores, shape (B,), >= 0.
    """
    return class_distances(z, gaussians).amin(dim=1)


def class_distances(z: Tensor, gaussians: Gaussians) -> Tensor:
    """(z - mu_k)^T P (z - mu_k) of every class k, shape (B, K), >= 0; arguments as `mahalanobis`.

    Computed in the type of the Gaussians if that is the finer one: features that are nearly dependent make large
    numbers that cancel.
    """
    finer = torch.promote_types(z.dtype, gaussians.means.dtype)
    off = z[:, None].to(finer) - gaussians.means.to(z.device, finer)  # (B, K, D)
    return ((off @ gaussians.precision.to(off)) * off).sum(dim=2).to(z.dtype)


class Mahalanobis(OnNetwork):
    """Squared Mahalanobis distance of the penultimate features to the nearest class mean; see `fit_mahalanobis`."""

    name = "mahalanobis"
    means: Tensor
    precision: Tensor

    def __init__(self, net: Classifier, gaussians: Gaussians) -> None:
        super().__init__(net, "features")
        self.register_buffer("means", gaussians.means)
        self.register_buffer("precision", gaussians.precision)
        self.latent = net.features

    @property
    def gaussians(self) -> Gaussians:
        """What was fitted."""
        return Gaussians(self.means, self.precision)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0."""
        return mahalanobis(self.net.features(x), self.gaussians)

    def class_scores(self, x: Tensor) -> Tensor:
        """Minus the distance to each class mean, shape (B, K): the score is minus the largest."""
        return -class_distances(self.net.features(x), self.gaussians)


def fit_mahalanobis(
    net: Classifier, x: Images, y: Tensor | None = None, *, batch_size: int = BATCH_SIZE
) -> Mahalanobis:
    """Fit on training images in [0, 1] with true labels, one batch at a time.

    Args:
        net: classifier.
        x: images, shape (N, C, H, W), or what yields batches of (images, labels); see `batches`.
        y: labels, shape (N,), of a tensor `x`; every class 0..max(y) must occur. One class alone will do.
        batch_size: images per forward pass.

    Raises:
        ValueError: no images, a class without samples, labels that are missing, negative or not one an image, or
            features that do not vary within a class.

    Differs from the paper: one layer and no input preprocessing, the usual reading in OOD libraries (OpenOOD's `mds`);
    `fit_mahalanobis_layers` has both.
    """
    check_net(net, "features")

    def features() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, labels in labelled(x, y, net=net, batch_size=batch_size):
            with torch.no_grad():
                yield net.features(rows), labels

    return Mahalanobis(net, gaussians_of(class_moments(features())))
