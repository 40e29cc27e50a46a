import math
import sys

import pytest
import torch

from oodattack.metrics import auroc, fpr_at_95_id_tpr, fpr_at_95_ood_tpr
from oodattack.metrics.bootstrap import Intervals, bootstrap, bootstrap_draws, streams


def gaussians(n, m, shift, seed, decimals=None):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, generator=g).double(), shift + torch.randn(m, generator=g).double()
    return (a, b) if decimals is None else (a.round(decimals=decimals), b.round(decimals=decimals))


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_draws_equal_the_metrics_of_the_resampled_scores(decimals):
    a, b = gaussians(57, 43, 1.0, seed=0, decimals=decimals)
    found = bootstrap_draws(a, b, draws=5, seed=7)
    id_random, ood_random = streams(7)
    id_drawn = a.sort().values[torch.randint(1, 58, (5, 57), generator=id_random) - 1]
    ood_drawn = b.sort().values[torch.randint(1, 44, (5, 43), generator=ood_random) - 1]
    for i in range(5):
        assert found.auroc[i] == auroc(id_drawn[i], ood_drawn[i])
        assert found.fpr_at_95_id_tpr[i] == fpr_at_95_id_tpr(id_drawn[i], ood_drawn[i])
        assert found.fpr_at_95_ood_tpr[i] == fpr_at_95_ood_tpr(id_drawn[i], ood_drawn[i])


def test_draws_depend_on_scores_and_seed_only(monkeypatch):
    a, b = gaussians(30, 20, 0.5, seed=1)
    found = bootstrap_draws(a, b, draws=40, seed=3)
    assert torch.equal(found.auroc, bootstrap_draws(a.flip(0), b.flip(0), draws=40, seed=3).auroc)
    assert torch.equal(found.auroc[:10], bootstrap_draws(a, b, draws=10, seed=3).auroc)
    assert not torch.equal(found.auroc, bootstrap_draws(a, b, draws=40, seed=4).auroc)
    monkeypatch.setattr(sys.modules["oodattack.metrics.bootstrap"], "CHUNK", 1)  # one draw at a time
    assert all(map(torch.equal, found, bootstrap_draws(a, b, draws=40, seed=3)))


def test_intervals_are_percentiles_of_the_draws():
    a, b = gaussians(30, 20, 0.5, seed=1)
    found, draws = bootstrap(a, b, draws=101, seed=0, level=0.8), bootstrap_draws(a, b, draws=101, seed=0)
    for interval, metric in zip(found, draws, strict=True):
        assert interval == pytest.approx((metric.sort().values[10].item(), metric.sort().values[90].item()))
    assert found.auroc.low < auroc(a, b) < found.auroc.high


def test_interval_covers_the_true_auroc_as_often_as_it_says():
    truth = 0.5 * (1 + math.erf(1.0 / 2))  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    found = [bootstrap(*gaussians(60, 60, 1.0, seed), draws=100, seed=seed, level=0.9).auroc for seed in range(200)]
    covered = sum(low <= truth <= high for low, high in found)
    assert 164 <= covered <= 192  # 180 expected; 3 sigma is 13, and percentile intervals of 60 inputs are a bit short


def test_width_follows_the_size_of_the_sets():
    # Hanley & McNeil's standard error of an AUROC A: sqrt((A(1-A) + (m-1)(Q1-A^2) + (n-1)(Q2-A^2)) / nm)
    a, b = gaussians(400, 300, 1.0, seed=0)
    area = auroc(a, b)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + 299 * (q1 - area**2) + 399 * (q2 - area**2)) / (400 * 300))
    low, high = bootstrap(a, b, draws=2000, seed=0).auroc
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_separated_sets_have_an_interval_of_no_width():
    a, b = torch.linspace(0, 1, 50), torch.linspace(2, 3, 50)
    assert bootstrap(a, b, draws=50, seed=0) == Intervals((1.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    assert bootstrap(b, a, draws=50, seed=0) == Intervals((0.0, 0.0), (1.0, 1.0), (1.0, 1.0))


def test_one_input_a_side_will_do():
    assert bootstrap(torch.zeros(1), torch.zeros(1), draws=40, seed=0).auroc == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 39}, r"`draws` must be >= 40 at level 0.95, got 39"),
        ({"draws": 9, "level": 0.8}, r"`draws` must be >= 10 at level 0.8, got 9"),
        ({"draws": 100, "level": 95}, r"`level` must be in \(0, 1\), got 95"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(torch.zeros(3), torch.ones(3), seed=0, **arguments)


def test_unusable_scores_are_named():
    with pytest.raises(ValueError, match="`id_scores` must be finite, got 2 of 3"):
        bootstrap(torch.tensor([0.0, torch.nan, torch.inf]), torch.ones(3), draws=100, seed=0)
    with pytest.raises(ValueError, match="`draws` must be >= 1, got 0"):
        bootstrap_draws(torch.zeros(3), torch.ones(3), draws=0, seed=0)
