import pytest
import torch

from oodattack.objectives.poem import (
    boundary_sampler,
    boundary_scores,
    fit_posterior,
    sample_weights,
    weight_prior,
)
from oodattack.objectives.samplers import Pool

DOUBLE = torch.float64
USUAL = {"target": 3.0, "prior_variance": 20.0, "noise_variance": 0.5, "covariance": "exact"}


def covariance(posterior):
    return posterior.factor @ posterior.factor.T


def drawn(n_id=30, n_aux=40, d=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n_id, d, generator=draw, dtype=DOUBLE), torch.randn(n_aux, d, generator=draw, dtype=DOUBLE) + 1


def test_one_dimension_by_hand():
    # Z = (1, 2, 3), g = (-3, -3, 3): Z^T Z = 14, Z^T g = -3 - 6 + 9 = 0; with offset 1 it is 6
    # A = 14 / 0.5 + 1 / 20 = 28.05
    features_id, features_aux = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])
    found = fit_posterior(features_id, features_aux, **USUAL)
    assert found.mean.item() == pytest.approx(0, abs=1e-12)
    assert covariance(found).item() == pytest.approx(1 / 28.05, rel=1e-12)
    shifted = fit_posterior(features_id, features_aux, **USUAL, offset=1.0)
    assert shifted.mean.item() == pytest.approx(6 / 0.5 / 28.05, rel=1e-12)
    authors = fit_posterior(features_id, features_aux, **USUAL | {"covariance": "code"})
    assert covariance(authors).item() == pytest.approx(20 / 28.05, rel=1e-12)
    assert authors.mean.item() == found.mean.item()


def test_mean_is_ridge_regression_and_covariance_its_inverse_hessian():
    features_id, features_aux = drawn()
    w = torch.zeros(4, dtype=DOUBLE, requires_grad=True)

    def misfit(w):  # minus the log posterior, up to a constant
        targets = torch.cat([torch.full((30,), -2.5), torch.full((40,), 3.5)]).double()
        residuals = torch.cat([features_id, features_aux]) @ w - targets
        return residuals.square().sum() / (2 * 0.5) + w.square().sum() / (2 * 20)

    found = fit_posterior(features_id, features_aux, **USUAL, offset=0.5)
    w = found.mean.clone().requires_grad_()
    assert torch.autograd.grad(misfit(w), w)[0].abs().max() < 1e-9
    hessian = torch.autograd.functional.hessian(misfit, found.mean)
    torch.testing.assert_close(covariance(found), torch.linalg.inv(hessian))


def test_little_data_leaves_the_prior_and_the_order_of_rows_does_not_matter():
    features_id, features_aux = drawn()
    prior = weight_prior(features_id, prior_variance=20.0)
    assert (prior.mean == 0).all()
    torch.testing.assert_close(covariance(prior), 20 * torch.eye(4, dtype=DOUBLE))
    none = fit_posterior(features_id[:1] * 1e-9, features_aux[:0], **USUAL)
    torch.testing.assert_close(covariance(none), covariance(prior))
    flipped = fit_posterior(features_id.flip(0), features_aux.flip(0), **USUAL)
    torch.testing.assert_close(flipped.mean, fit_posterior(features_id, features_aux, **USUAL).mean)


def test_outliers_get_the_higher_value():
    features_id, features_aux = drawn()
    w = fit_posterior(features_id, features_aux, **USUAL).mean
    assert (features_aux @ w).mean() > (features_id @ w).mean()


def test_draws_have_the_posterior_moments():
    posterior = fit_posterior(*drawn(d=3), **USUAL | {"covariance": "code"})
    draw = torch.Generator().manual_seed(0)
    found = torch.stack([sample_weights(posterior, draw) for _ in range(5000)])
    spread = covariance(posterior).diag().sqrt()
    assert ((found.mean(dim=0) - posterior.mean).abs() < 5 * spread / 5000**0.5).all()
    scale = spread[:, None] * spread
    assert ((found.T.cov() - covariance(posterior)).abs() < 0.1 * scale).all()


def test_boundary_scores_by_hand():
    # w^T z = 3 - 4, 0, 8: the second lies on the boundary
    features = torch.tensor([[3.0, 2.0], [2.0, 1.0], [0.0, -4.0]])
    scores = boundary_scores(features, torch.tensor([1.0, -2.0], dtype=DOUBLE))
    torch.testing.assert_close(scores, torch.tensor([-1.0, 0.0, -8.0], dtype=DOUBLE))


def test_sampler_takes_what_is_nearest_to_the_boundary():
    features = torch.tensor([[3.0], [-1.0], [0.5], [-4.0], [1.0]], dtype=DOUBLE)
    pool = Pool(features, torch.zeros(5, 2))
    sample = boundary_sampler(torch.tensor([2.0], dtype=DOUBLE))
    assert sample(pool, 2, 0).tolist() == [1, 2]  # rows 1 and 4 tie: the lower index
    assert sample(pool, 3, 1).tolist() == [1, 2, 4]
    assert sample(pool, 5, 0).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"`n` must be in 1\.\.5"):
        sample(pool, 6, 0)


def test_no_gradient_and_no_global_randomness():
    features_id, features_aux = (f.requires_grad_() for f in drawn())
    state = torch.random.get_rng_state()
    posterior = fit_posterior(features_id, features_aux, **USUAL)
    weights = sample_weights(posterior, torch.Generator().manual_seed(0))
    assert not any(t.requires_grad for t in (*posterior, weights, boundary_scores(features_aux, weights)))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"covariance": "full"}, r"`covariance` must be one of \('exact', 'code'\), got 'full'"),
        ({"noise_variance": 0.0}, "`noise_variance` must be > 0, got 0"),
        ({"prior_variance": -1.0}, "`prior_variance` must be > 0, got -1"),
        ({"target": 0.0}, "`target` must be > 0, got 0"),
        ({"features_aux": torch.zeros(3, 2)}, r"must have shapes \(N, D\) and \(M, D\), got \(2, 1\) and \(3, 2\)"),
        ({"features_id": torch.zeros(0, 1), "features_aux": torch.zeros(0, 1)}, "must have a row between them"),
    ],
)
def test_wrong_use_is_named(change, message):
    arguments = {"features_id": torch.ones(2, 1), "features_aux": torch.ones(3, 1)} | USUAL | change
    with pytest.raises(ValueError, match=message):
        fit_posterior(**arguments)


def test_features_that_are_not_finite_are_named():
    with pytest.raises(FloatingPointError, match="features must be finite, got 2 values"):
        fit_posterior(torch.full((2, 1), torch.nan), torch.ones(1, 1), **USUAL)
    with pytest.raises(ValueError, match=r"`weights` \(D,\), got \(2, 3\) and \(2,\)"):
        boundary_scores(torch.zeros(2, 3), torch.zeros(2))
