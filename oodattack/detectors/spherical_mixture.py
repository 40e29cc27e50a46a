"""Mixtures of spherical Gaussians in image space under a whitened metric: Meinke & Hein, "Towards Neural Networks That
Provably Know When They Don't Know", ICLR 2020, arXiv:1909.12180."""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

FLOOR = 1e-6  # smallest singular value of the metric as a share of the largest, as in the authors' code
LEAST_VARIANCE = 0.1  # smallest variance of a component as a share of the mean one


class Metric(NamedTuple):
    """d(x, y) = ||(x - y) A||_2 on images flattened to (D,), with what the axes leave of x - y times `rest`."""

    centre: Tensor  # (D,), where the coordinates are 0; distances do not depend on it
    axes: Tensor  # A, (D, R), R <= D; column j is a direction of unit length over its scale, all at right angles
    rest: Tensor | None = None  # one over the scale of all directions beside the axes, a scalar; None where R = D


class Mixture(NamedTuple):
    """sum_m w_m N(u; c_m, s_m^2 I), u the coordinates of an image in a `Metric`."""

    centroids: Tensor  # c, (M, D), coordinates
    sigmas: Tensor  # s, (M,), > 0, in units of the metric
    log_weights: Tensor  # log w, (M,), of weights that sum to 1


def coordinates(x: Tensor, metric: Metric) -> Tensor:
    """u = (x - centre) A, in float64: distances of 1e4 and likelihoods of 1e8 are usual far from ID images.

    With fewer axes than numbers, u = (x - centre) (A V^T + rest (I - V V^T)), V the directions of A: turned as a whole,
    so that no D x D matrix is needed.

    Args:
        x: shape (B, ...) of D numbers a row.
        metric: centre and axes.

    Returns:
        Shape (B, D), float64; Euclidean distances between rows are those of the metric.

    Raises:
        ValueError: another number of numbers a row.
    """
    if (found := x.shape[1:].numel()) != len(metric.centre):
        raise ValueError(
            f"`x` must have {len(metric.centre)} numbers an image as the metric has, got {found}. "
            "Pass images of the size that it was fitted on."
        )
    off, axes = x.flatten(1).double() - metric.centre.double(), metric.axes.double()
    if metric.rest is None:
        return off @ axes
    v = axes / torch.linalg.vector_norm(axes, dim=0)
    u: Tensor = (off @ axes) @ v.mT + (off - (off @ v) @ v.mT) * metric.rest.double()
    return u


def stretch(metric: Metric) -> Tensor:
    """Largest d(x, y) / ||x - y||_2, a scalar: what an l2 ball of radius 1 measures in the metric."""
    lengths: Tensor = torch.linalg.vector_norm(metric.axes, dim=0)  # columns are orthogonal
    return lengths.amax() if metric.rest is None else lengths.amax().maximum(metric.rest)


def distances(u: Tensor, mixture: Mixture) -> Tensor:
    """d(x, c_m) to every centroid.

    Args:
        u: coordinates, shape (B, D), float64.
        mixture: M components.

    Returns:
        Shape (B, M), >= 0.
    """
    return squared_distances(u, mixture).sqrt()


def squared_distances(u: Tensor, mixture: Mixture) -> Tensor:
    """d(x, c_m)^2, shape (B, M), with a gradient on a centroid too. Arguments as `distances`."""
    c = mixture.centroids.to(u)
    return (u.square().sum(dim=1, keepdim=True) - 2 * u @ c.mT + c.square().sum(dim=1)).clamp(min=0)


def log_density(u: Tensor, mixture: Mixture) -> Tensor:
    """log sum_m w_m (2 pi s_m^2)^(-D/2) exp(-d(x, c_m)^2 / (2 s_m^2)), in log space.

    A density of the coordinates: that of the pixels has log |det A| more, the same for all mixtures of one metric.

    Args:
        u: coordinates, shape (B, D), float64.
        mixture: M components.

    Returns:
        Shape (B,), unbounded.
    """
    s = mixture.sigmas.to(u)
    scale = u.shape[1] * (s.log() + math.log(2 * math.pi) / 2)
    return (mixture.log_weights.to(u) - scale - squared_distances(u, mixture) / (2 * s.square())).logsumexp(dim=1)


def fit_metric(x: Tensor, *, power: float, floor: float = FLOOR) -> Metric:
    """Axes of the principal components of images, each over its singular value to a power.

    With fewer images than numbers an image, only axes of singular values above the floor are kept: all others have the
    same scale. Memory is then O(N D).

    Args:
        x: images, shape (N, ...) of D numbers a row, N >= 2.
        power: 0.5 as in the authors' code, or 1 for whitened coordinates.
        floor: smallest singular value, as a share of the largest; > 0, so that directions in which the images do not
            vary count as well, and most.

    Raises:
        ValueError: fewer than 2 images, or all alike.
    """
    rows = x.flatten(1).double()
    if len(rows) < 2:
        raise ValueError(f"`x` must have at least 2 images to fit on, got {len(rows)}. Pass more ID images.")
    centre = rows.mean(dim=0)
    few = len(rows) < rows.shape[1]
    singular, basis = thin(rows - centre) if few else full(rows - centre)
    if singular[-1] == 0:
        raise ValueError("`x` must have images that differ, got copies of one. Pass other ID images.")
    least = floor * singular[-1]
    if not few:
        return Metric(centre, basis / singular.clamp(min=least) ** power)
    kept = singular > least
    return Metric(centre, basis[:, kept] / singular[kept] ** power, least**-power)


def full(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of rows (N, D), ascending, shape (D,), and directions as columns, shape (D, D)."""
    squares, basis = torch.linalg.eigh(rows.mT @ rows)
    return squares.clamp(min=0).sqrt(), basis


def thin(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`full` of N < D rows without the directions that they cannot have: shapes (N,) and (D, N)."""
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    return singular.flip(0), directions.mT.flip(1)


def fit_mixture(u: Tensor, *, components: int, seed: int, rounds: int = 20) -> Mixture:
    """Expectation maximisation from k-means, by scikit-learn's `GaussianMixture`.

    Args:
        u: coordinates, shape (N, D), N >= 1.
        components: M, >= 1; fewer where there are less than two images for each.
        seed: of k-means.
        rounds: of expectation maximisation at most.

    Returns:
        The mixture. A component that has shrunk onto an image gets a share `LEAST_VARIANCE` of the mean variance.

    Raises:
        ValueError: `components` is below 1.
    """
    from sklearn.mixture import GaussianMixture

    if components < 1:
        raise ValueError(f"`components` must be >= 1, got {components}. The paper takes 100.")
    count = max(1, min(components, len(u) // 2))
    spread = u.var(dim=0, correction=0).mean().item()
    model = GaussianMixture(
        count, covariance_type="spherical", random_state=seed, max_iter=rounds, reg_covar=1e-9 * spread + 1e-300
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # twenty rounds are what is asked for, converged or not
        model.fit(u.detach().double().cpu().numpy())
    weights, variances = torch.as_tensor(model.weights_), torch.as_tensor(model.covariances_)
    variances = variances.clamp(min=LEAST_VARIANCE * (weights * variances).sum().item())
    centroids = torch.as_tensor(model.means_)
    return Mixture(*(part.to(u.device) for part in (centroids, variances.sqrt(), weights.log())))
