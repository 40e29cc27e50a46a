"""Median smoothing: exact ranks, closed form on a linear score, violations as rare as promised."""

from math import comb

import pytest
import torch
from small_networks import DOUBLE
from torch import nn

from oodattack.bounds import Smoothed, guarantee, smoothed_bounds
from oodattack.bounds.order_statistics import rank_above, rank_below


def at_least(n, p, k):
    """P(Bin(n, p) >= k), summed by hand."""
    return sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


@pytest.mark.parametrize("n", [1, 5, 12])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.84])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 1e-3])
def test_ranks_are_the_first_that_will_do(n, p, alpha):
    good = [k for k in range(1, n + 1) if at_least(n, p, k) <= alpha]
    assert rank_above(n, p, alpha) == (good[0] if good else None)
    good = [k for k in range(1, n + 1) if 1 - at_least(n, p, k) <= alpha]
    assert rank_below(n, p, alpha) == (good[-1] if good else None)


def test_ranks_by_hand():
    # the largest of 5 draws is below the median with probability 1/32; the fourth or fifth with 6/32
    assert rank_above(5, 0.5, 1 / 32) == 5 and rank_above(5, 0.5, 0.03) is None
    assert rank_above(5, 0.5, 6 / 32) == 4 and rank_below(5, 0.5, 6 / 32) == 2


def mean(x):
    """A linear score; its noise has standard deviation sigma / sqrt(D)."""
    return x.flatten(1).mean(dim=1)


def test_violations_are_as_rare_as_promised():
    """300 rows with a bound each at alpha / 2: the true quantile of x + noise is known."""
    x = torch.full((300, 1, 3, 3), 0.5, dtype=DOUBLE)
    sigma, eps, alpha = 0.05, 0.05, 0.1
    each = [
        smoothed_bounds(mean, x[i : i + 1], eps=eps, sigma=sigma, draws=201, alpha=alpha, seed=i) for i in range(300)
    ]
    reach = eps / 3  # the score moves by eps ||1/9||_2 = eps / 3, as its quantile at Phi(eps / sigma) does
    low, high = torch.cat([b.lower for b in each]), torch.cat([b.upper for b in each])
    wrong = int((low > 0.5 - reach).sum() + (high < 0.5 + reach).sum())
    assert wrong <= 2 * 300 * alpha / 2  # at most alpha / 2 of each, on average; exact ranks leave less
    assert (low > 0.5 - 2 * reach).all() and (high < 0.5 + 2 * reach).all()  # and not by being far away


def test_alpha_is_split_over_rows_and_too_few_draws_certify_nothing():
    x = torch.full((4, 1, 3, 3), 0.5, dtype=DOUBLE)
    one = smoothed_bounds(mean, x[:1], eps=0.02, sigma=0.05, draws=101, alpha=0.01, seed=3)
    four = smoothed_bounds(mean, x, eps=0.02, sigma=0.05, draws=101, alpha=0.01, seed=3)
    assert one.clean[0] == four.clean[0]  # each row has noise of its own, whoever else is there
    assert four.upper[0] >= one.upper[0] and four.lower[0] <= one.lower[0]
    few = smoothed_bounds(mean, x, eps=0.1, sigma=0.05, draws=100, alpha=0.01, seed=3)
    assert few.upper.isinf().all() and few.lower.isinf().all()
    many = smoothed_bounds(mean, x, eps=0.1, sigma=0.05, draws=1000, alpha=0.01, seed=3)
    assert many.upper.isfinite().all()


def test_no_attack_on_the_median_beats_the_bounds():
    """The median score of a network at moved images, from fresh draws, stays inside."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 1)).double().eval()
    score = lambda x: 3 * network(x).squeeze(1)
    x = torch.rand(3, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    bounds = smoothed_bounds(score, x, eps=0.2, sigma=0.2, draws=2001, alpha=0.01, seed=0)
    smooth = Smoothed(score, sigma=0.2, draws=2001, seed=99)
    for sign in (1, -1):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(sign * smooth.surrogate.score(leaf).sum(), leaf)
        step = 0.2 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        with torch.no_grad():
            moved = smooth((x + step).clamp(0, 1))
            assert (sign * moved > sign * smooth(x)).all()  # the step goes where it should
        assert (moved <= bounds.upper).all() and (moved >= bounds.lower).all()


def test_a_smoothed_detector_is_a_detector():
    smooth = Smoothed(mean, sigma=0.1, draws=11, seed=0)
    x = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    scores = smooth(x)
    assert torch.equal(scores, smooth(x)) and torch.equal(scores[2:3], smooth(x[2:3]))  # no row minds another
    assert torch.equal(scores, smooth.scores(x).sort(dim=1).values[:, 5])
    assert not torch.equal(scores, Smoothed(mean, sigma=0.1, draws=11, seed=1)(x))
    assert smooth.name == "smoothed-function"
    for change in ({"sigma": 0.0}, {"draws": 10}):
        with pytest.raises(ValueError, match=r"`(sigma|draws)` must be"):
            Smoothed(mean, **{"sigma": 0.1, "draws": 11, "seed": 0, **change})
    with pytest.raises(ValueError, match="`eps` must be >= 0"):
        smoothed_bounds(mean, x, eps=-1.0, sigma=0.1, draws=11, alpha=0.1, seed=0)


def test_what_has_no_smoothed_bounds_is_told_so():
    x = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    for score, images, words in (
        (lambda z: z.flatten(1)[:, :2], x, r"the score must be one number a row, got \(11, 2\) for 11 images"),
        (lambda z: mean(z) / 0, x, "scores of noisy images must be finite"),
        (mean, 2 * x, r"`x` must be images in \[0, 1\]"),
        (mean, x[:0], "`x` must be images"),
        (Smoothed(mean, sigma=0.1, draws=11, seed=0), x, "got a Smoothed one"),
    ):
        with pytest.raises(ValueError, match=words):
            smoothed_bounds(score, images, eps=0.1, sigma=0.1, draws=11, alpha=0.1, seed=0)


def test_the_guarantee_of_smoothed_scores_is_as_rarely_wrong_as_promised():
    """True medians .500 (ID) and .493 (OOD, worst in the ball): AUROC 0. Both alphas are .1: a fifth may be wrong."""
    draw, wrong = torch.Generator().manual_seed(5), 0
    x_id, x_ood = torch.full((1, 1, 3, 3), 0.5, dtype=DOUBLE), torch.full((1, 1, 3, 3), 0.496, dtype=DOUBLE)
    for _ in range(100):
        seed = int(torch.randint(2**31, (), generator=draw))
        of_id = smoothed_bounds(mean, x_id, eps=0.0, sigma=0.05, draws=15, alpha=0.1, seed=seed)
        of_ood = smoothed_bounds(mean, x_ood, eps=0.009, sigma=0.05, draws=2001, alpha=0.1, seed=seed + 1)
        wrong += guarantee(of_id, of_ood).auroc > 0
    assert wrong <= 20
