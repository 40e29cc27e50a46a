"""Mahalanobis distance on penultimate features: Lee et al., NeurIPS 2018, arXiv:1807.03888."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from oodattack.detector import Classifier


class Gaussians(NamedTuple):
    """One Gaussian a class with a shared covariance."""

    means: Tensor  # (K, D)
    precision: Tensor  # (D, D)


def fit_gaussians(z: Tensor, y: Tensor) -> Gaussians:
    """Class means and the inverse of the covariance pooled over classes, eq. (1) of Lee et al. 2018.

    Args:
        z: features, shape (N, D).
        y: labels, shape (N,); every class 0..max(y) must occur.

    Raises:
        ValueError: a class without samples, or counts of features and labels that differ.
    """
    from sklearn.covariance import EmpiricalCovariance

    if len(z) != len(y):
        raise ValueError(f"`y` must have one label a feature row, got {len(y)} labels for {len(z)} rows.")
    if missing := sorted(set(range(int(y.max()) + 1)) - set(y.tolist())):
        raise ValueError(f"every class must have samples to fit on, got none of class {missing[0]}.")
    z, y = z.detach().double().cpu(), y.cpu()
    means = torch.stack([z[y == k].mean(0) for k in range(int(y.max()) + 1)])
    pooled = EmpiricalCovariance(assume_centered=False).fit((z - means[y]).numpy())
    return Gaussians(means, torch.as_tensor(pooled.precision_))


def mahalanobis(z: Tensor, gaussians: Gaussians) -> Tensor:
    """min_k (z - mu_k)^T P (z - mu_k), eq. (2) of Lee et al. 2018 with the sign turned.

    Args:
        z: features, shape (B, D).
        gaussians: fitted means (K, D) and precision (D, D).

    Returns:
        OOD scores, shape (B,), >= 0.
    """
    off = z[:, None] - gaussians.means.to(z)  # (B, K, D)
    return ((off @ gaussians.precision.to(z)) * off).sum(dim=2).amin(dim=1)


class Mahalanobis(nn.Module):
    """Squared Mahalanobis distance of the penultimate features to the nearest class mean; see `fit_mahalanobis`."""

    name = "mahalanobis"

    def __init__(self, net: Classifier, gaussians: Gaussians) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("means", gaussians.means)
        self.register_buffer("precision", gaussians.precision)
        self.latent = net.features
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0."""
        return mahalanobis(self.net.features(x), Gaussians(self.means, self.precision))  # type: ignore[arg-type]


def fit_mahalanobis(net: Classifier, x: Tensor, y: Tensor, *, batch_size: int = 256) -> Mahalanobis:
    """Fit on training images x (N, C, H, W) in [0, 1] with true labels y (N,).

    Differs from the paper: one layer and no input preprocessing, the usual reading in OOD libraries (OpenOOD's `mds`);
    `fit_mahalanobis_layers` has both.

    Raises:
        ValueError: as `fit_gaussians`.
    """
    with torch.no_grad():
        z = torch.cat([net.features(rows) for rows in x.split(batch_size)])
    return Mahalanobis(net, fit_gaussians(z, y))
