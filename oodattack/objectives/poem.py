"""Posterior sampling of outliers (POEM): Ming, Fan & Li, "POEM: Out-of-Distribution Detection with Posterior Sampling",
ICML 2022, arXiv:2206.13687.

A Bayesian linear regression on penultimate features tells outliers (+t) from ID inputs (-t). Before each epoch one draw
of its weights picks the candidates nearest to its boundary; the network is trained on them with the energy margin loss
(authors' weight 0.1, margins -25 and -7), then the regression is fitted anew.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor

from oodattack.objectives.samplers import Pool, Sampler, check_pool

Covariance = Literal["exact", "code"]


class Posterior(NamedTuple):
    """N(mean, factor factor^T), the distribution of the regression's weights.

    Attributes:
        mean: shape (D,), float64.
        factor: square root of the covariance, shape (D, D), float64.
    """

    mean: Tensor
    factor: Tensor


def weight_prior(like: Tensor, *, prior_variance: float) -> Posterior:
    """N(0, s I), what is believed of the weights before the first epoch.

    Args:
        like: features, shape (N, D), whose D and device it takes.
        prior_variance: s > 0; 20 in the authors' code.

    Differs from the authors' code: the mean is 0, theirs is drawn from N(0, 0.01^2).
    """
    _check_positive("prior_variance", prior_variance)
    dimensions = like.shape[1]
    eye = torch.eye(dimensions, dtype=torch.float64, device=like.device)
    return Posterior(torch.zeros_like(eye[0]), prior_variance**0.5 * eye)


def fit_posterior(
    features_id: Tensor,
    features_aux: Tensor,
    *,
    target: float,
    prior_variance: float,
    noise_variance: float,
    covariance: Covariance,
    offset: float = 0.0,
) -> Posterior:
    """mean = A^-1 Z^T g / s_n and covariance A^-1, with A = Z^T Z / s_n + I / s.

    Z stacks both features, g is offset - t for ID inputs and offset + t for outliers: the posterior of w in
    g = w^T z + noise with noise ~ N(0, s_n) and w ~ N(0, s I).

    Args:
        features_id: penultimate features of ID inputs, shape (N, D), finite.
        features_aux: those of outliers chosen before, shape (M, D); the authors keep the last 4 epochs' and weigh the
            ID inputs as much, by repetition. N + M >= 1.
        target: t > 0; 3 in the authors' code.
        prior_variance: s > 0; 20 there.
        noise_variance: s_n > 0; 0.5 there.
        covariance: "exact" as above; "code" is s times as much, as the authors' code draws from.
        offset: one number added to all targets; drawn once from N(0, s_n) in the authors' code.

    Returns:
        The posterior, float64, on the device of the features, without a graph.

    Raises:
        ValueError: shapes, variances or an option out of range.
        FloatingPointError: features that are not finite.

    Differs from the authors' code: nothing with "code", but for the order of sums.
    """
    if covariance not in get_args(Covariance):
        raise ValueError(f"`covariance` must be one of {get_args(Covariance)}, got {covariance!r}. Pick one of them.")
    for name, value in (("target", target), ("prior_variance", prior_variance), ("noise_variance", noise_variance)):
        _check_positive(name, value)
    z, g = _regression(features_id, features_aux, target, offset)
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    root = torch.linalg.cholesky(z.T @ z / noise_variance + eye / prior_variance)  # A = root root^T
    mean = torch.cholesky_solve((z.T @ g / noise_variance)[:, None], root)[:, 0]
    factor = torch.linalg.solve_triangular(root.T, eye, upper=True)  # factor factor^T = A^-1
    return Posterior(mean, factor * (prior_variance**0.5 if covariance == "code" else 1.0))


def sample_weights(posterior: Posterior, generator: Generator) -> Tensor:
    """w ~ N(mean, covariance), one draw for an epoch, shape (D,), float64; `generator` is on any device."""
    mean, factor = posterior
    z = torch.randn(len(mean), generator=generator, device=generator.device, dtype=mean.dtype)
    return mean + factor @ z.to(mean.device)


def boundary_scores(features: Tensor, weights: Tensor) -> Tensor:
    """-|w^T z|, the boundary score of Fig. 2 of Ming et al. 2022: 0 on the boundary, lower further away.

    Args:
        features: shape (N, D).
        weights: shape (D,), from `sample_weights`.

    Returns:
        Shape (N,), <= 0, in the precision of `weights`.

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.ndim != 2 or weights.shape != features.shape[1:]:
        raise ValueError(
            f"`features` must have shape (N, D) and `weights` (D,), got {tuple(features.shape)} and "
            f"{tuple(weights.shape)}. Fit the posterior to features of the same network."
        )
    return -(features.detach().to(weights) @ weights).abs()


def boundary_sampler(weights: Tensor) -> Sampler:
    """The sampler of POEM, under one draw of the weights: the n candidates nearest to the boundary, whatever the seed.

    Args:
        weights: shape (D,), from `sample_weights`, a new draw each epoch.

    Differs from the authors' code: nothing if the pool is that of an epoch; theirs has 400,000 candidates.
    """

    def sample(pool: Pool, n: int, seed: int) -> Tensor:
        check_pool(pool, n, seed)
        order = boundary_scores(pool.features, weights).argsort(descending=True, stable=True)
        return order[:n].sort().values.to(pool.logits.device)

    return sample


def _regression(features_id: Tensor, features_aux: Tensor, target: float, offset: float) -> tuple[Tensor, Tensor]:
    """Z (N + M, D) and g (N + M,) in double precision."""
    if features_id.ndim != 2 or features_aux.ndim != 2 or features_id.shape[1] != features_aux.shape[1]:
        raise ValueError(
            f"`features_id` and `features_aux` must have shapes (N, D) and (M, D), got {tuple(features_id.shape)} and "
            f"{tuple(features_aux.shape)}. Take both from the same layer, flattened."
        )
    z = torch.cat([features_id, features_aux]).detach().double()
    if len(z) == 0:
        raise ValueError("`features_id` and `features_aux` must have a row between them, got none. Use `weight_prior`.")
    if bad := int((~z.isfinite()).sum()):
        raise FloatingPointError(f"features must be finite, got {bad} values that are not. Lower the learning rate.")
    g = torch.full_like(z[:, 0], offset - target)
    g[len(features_id) :] = offset + target
    return z, g


def _check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number > 0."""
    if not 0 < value < float("inf"):
        raise ValueError(f"`{name}` must be > 0, got {value}. The authors take target 3 and variances 20 and 0.5.")
