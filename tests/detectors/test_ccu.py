"""Confidence that a density of images switches off far away from them, by hand."""

import json
import math

import pytest
import torch
from torch import nn

from oodattack.bounds.ball import Ball
from oodattack.bounds.density_scores import radius
from oodattack.classifier import Classifier
from oodattack.detectors.ccu import CCU, ccu, fit_ccu, noise_like
from oodattack.detectors.msp import log_odds
from oodattack.detectors.spherical_mixture import (
    Metric,
    Mixture,
    coordinates,
    distances,
    fit_metric,
    fit_mixture,
    full,
    log_density,
    stretch,
)
from oodattack.detectors.store import load, save


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def identity(size):
    return Metric(torch.zeros(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64))


def one(sigma, *, at=(0.0, 0.0)):
    """A mixture of one Gaussian."""
    return Mixture(numbers(at), numbers(sigma), numbers(0.0))


def net_of(weight):
    network = nn.Sequential(nn.Flatten(), nn.Linear(len(weight[0]), len(weight), bias=False)).double().eval()
    network[1].weight.data = torch.tensor(weight, dtype=torch.float64)
    return Classifier(network).double()


def blurs(rows=40, size=6, seed=0):
    """Pictures of one bright spot each."""
    generator = torch.Generator().manual_seed(seed)
    centre = size * torch.rand(rows, 2, 1, generator=generator, dtype=torch.float64)
    line = (-(torch.arange(size) - centre).square() / 4).exp()
    return line[:, 0, :, None].mul(line[:, 1, None, :])[:, None]


def test_confidence_by_hand():
    # q = 0.9, K = 4, p_in = 3 p_out: p = (0.9 * 3 + 1/4) / 4 = 0.7375, score log(0.2625 / 0.4875)
    logits = numbers([0.9, 0.05, 0.03, 0.02]).log()
    score = ccu(logits, numbers(math.log(3)), numbers(0.0))
    assert score.item() == pytest.approx(math.log(0.2625 / 0.4875))


def test_ends_of_the_scale_keep_apart():
    # p_out = 0: log((1 - q) / (q - 1/K)), even where q rounds to 1; p_in far below p_out: p is 1/K to the last bit
    sure = numbers([60.0, 0.0], [80.0, 0.0])
    inside = ccu(sure, numbers(0.0, 0.0), numbers(-1e4, -1e4))
    assert inside.tolist() == pytest.approx([-60 - math.log(0.5), -80 - math.log(0.5)])  # 1 - q = e^-60, q - 1/2 = 1/2
    outside = ccu(sure, numbers(-1e4, -2e4), numbers(0.0, 0.0))
    # (1 - 1/K) p_out / p_in over (q - 1/K) = 1/2 e^1e4 / (1/2)
    assert outside.tolist() == pytest.approx([1e4, 2e4])


@pytest.mark.parametrize("far", [-3.0, 0.0, 3.0])
def test_score_is_a_decreasing_function_of_the_papers_confidence(far):
    # p = (q p_in + p_out / K) / (p_in + p_out)
    logits = 3 * torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k = logits.softmax(1).amax(1), 5
    p = (q * math.exp(-far) + 1 / k) / (math.exp(-far) + 1)
    score = ccu(logits, torch.full((50,), -far).double(), torch.zeros(50).double())
    torch.testing.assert_close(score, ((1 - p) / (p - 1 / k)).log(), rtol=1e-9, atol=1e-9)
    nothing = ccu(logits, torch.zeros(50).double(), torch.full((50,), -torch.inf).double())
    torch.testing.assert_close(nothing, log_odds(logits) - ((q - 1 / k) / q).log(), rtol=1e-9, atol=1e-9)


def test_density_by_hand():
    # half of N(0, 1) and half of N((3, 0), 4 I) in two dimensions, at (0, 0): densities 1 / (2 pi) and
    # exp(-9 / 8) / (8 pi)
    both = Mixture(numbers((0.0, 0.0), (3.0, 0.0)), numbers(1.0, 2.0), numbers(0.5, 0.5).log())
    expected = math.log(0.5 / (2 * math.pi) + 0.5 * math.exp(-9 / 8) / (8 * math.pi))
    u = torch.zeros(1, 2).double()
    assert log_density(u, both).item() == pytest.approx(expected)
    assert distances(u, both).tolist() == [[0.0, 3.0]]


def test_metric_is_a_power_of_the_singular_values():
    # rows (+-2, 0) and (0, +-1): singular values sqrt 8 and sqrt 2; coordinates over their square roots
    x = numbers((2.0, 0.0), (-2.0, 0.0), (0.0, 1.0), (0.0, -1.0)) + 5
    u = coordinates(x, fit_metric(x, power=0.5)).abs()
    wide, narrow = 2 / 8**0.25, 1 / 2**0.25
    assert sorted(u.amax(1).tolist()) == pytest.approx(sorted([wide, wide, narrow, narrow]))
    assert u.amin(1).tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert stretch(fit_metric(x, power=0.5)).item() == pytest.approx(2**-0.25)  # along the short axis
    whitened = coordinates(x, fit_metric(x, power=1.0))
    torch.testing.assert_close(whitened.mT @ whitened, torch.eye(2).double())


def test_directions_without_variance_count_most_but_not_for_all():
    x = numbers((1.0, 0.0), (-1.0, 0.0))  # singular values sqrt 2 and 0, raised to 1e-6 of the first
    (narrow,) = coordinates(numbers((0.0, 1.0)).view(1, 2), fit_metric(x, power=0.5)).abs().amax(1).tolist()
    assert narrow == pytest.approx((1e-6 * math.sqrt(2)) ** -0.5)


def whole_metric(x, *, power, floor=1e-6):
    """`fit_metric` with all D axes, whatever the number of images."""
    rows = x.flatten(1).double()
    centre = rows.mean(dim=0)
    singular, basis = full(rows - centre)
    return Metric(centre, basis / singular.clamp(min=floor * singular[-1]) ** power)


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("rows", [2, 12, 35, 36, 60])
def test_axes_of_few_images_measure_as_all_axes_do(rows, power):
    x, y = blurs(rows), torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found, whole = fit_metric(x, power=power), whole_metric(x, power=power)
    assert found.axes.shape == ((36, 36) if rows >= 36 else (36, min(rows - 1, found.axes.shape[1])))
    mine, theirs = (torch.cdist(coordinates(y, m), coordinates(torch.cat([x, y]), m)) for m in (found, whole))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6 * theirs.max().item())
    assert stretch(found).item() == pytest.approx(stretch(whole).item())
    assert coordinates(y, found).shape == (20, 36)  # what a density divides by
    ball = Ball(y, torch.full((20,), 0.1).double(), "linf", -math.inf, math.inf)
    apart = torch.linalg.vector_norm(coordinates(y + 0.1 * (y.round() * 2 - 1), found) - coordinates(y, found), dim=1)
    assert (apart <= radius(ball, found) * (1 + 1e-9)).all()


@pytest.mark.parametrize("rows", [20, 60])
def test_scores_after_few_images_are_those_of_all_axes(monkeypatch, rows):
    net, x = net_of([[1.0] * 36, [0.0] * 36]), blurs(rows)
    found = fit_ccu(net, x, seed=0, components=5)
    monkeypatch.setattr("oodattack.detectors.ccu.fit_metric", whole_metric)
    whole = fit_ccu(net, x, seed=0, components=5)
    both = torch.cat([blurs(8, seed=1), torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(3)).double()])
    torch.testing.assert_close(found(both), whole(both), rtol=1e-6, atol=1e-6)


def test_large_images_need_no_square_metric():
    x = torch.rand(20, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    assert fit_metric(x, power=0.5).axes.shape == (120_000, 19)  # the square would have 115 GB


@pytest.mark.parametrize("rows", [20, 60])
def test_few_axes_come_back_from_a_file_and_so_do_detectors_saved_without_a_rest(tmp_path, rows):
    detector, x = fit_ccu(net_of([[1.0] * 36, [0.0] * 36]), blurs(rows), seed=0, components=3), blurs(8, seed=1)
    save(detector, tmp_path / "d")
    assert torch.equal(load(tmp_path / "d", detector.net)(x), detector(x))
    record = json.loads((tmp_path / "d.json").read_text())
    rest = record["detector"]["arguments"]["metric"]["items"].pop("rest")
    assert (rest is None) == (rows == 60)
    if rest is None:
        (tmp_path / "d.json").write_text(json.dumps(record))
        assert torch.equal(load(tmp_path / "d", detector.net)(x), detector(x))


def test_mixture_finds_two_clusters():
    u = torch.cat([torch.zeros(30, 3), torch.full((10, 3), 8.0)]).double()
    u = u + 0.5 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fit_mixture(u, components=2, seed=0)
    order = found.centroids[:, 0].argsort()
    assert found.log_weights.exp()[order].tolist() == pytest.approx([0.75, 0.25], abs=1e-6)
    assert found.centroids[order].mean(1).tolist() == pytest.approx([0, 8], abs=0.3)
    assert found.sigmas.tolist() == pytest.approx([0.5, 0.5], rel=0.25)


def test_far_from_the_images_no_confidence_is_left():
    # logits (9 a, 0) grow without end along a, but so does p_out / p_in: sigmas 1 and 2 in two dimensions give
    # log p_in - log p_out = log 4 - r^2 / 2 + r^2 / 8
    detector = CCU(net_of([[9.0, 0.0], [0.0, 0.0]]), identity(2), one(1.0), one(2.0))
    for r in (1.0, 10.0, 100.0):
        x = numbers(r, 0.0).view(1, 1, 1, 2)
        ratio = 4 * math.exp(-3 * r * r / 8)
        q = 1 / (1 + math.exp(-9 * r))
        assert detector.log_confidence(x).item() == pytest.approx(math.log((q * ratio + 0.5) / (ratio + 1)))
    assert detector.log_confidence(x).item() == pytest.approx(math.log(0.5), abs=1e-12)
    assert detector(x).item() == pytest.approx(3 / 8 * 100**2 - math.log(4), rel=1e-9)  # while the score goes on


def test_the_prior_odds_move_the_density_outside():
    detector = CCU(net_of([[1.0, 0.0], [0.0, 1.0]]), identity(2), one(1.0), one(2.0), log_lambda=1.5)
    plain = CCU(detector.net, identity(2), one(1.0), one(2.0))
    x = numbers(0.2, 0.7).view(1, 1, 1, 2)
    difference = (detector.latent(x) - plain.latent(x))[0]
    assert difference.tolist() == pytest.approx([0, 0, 0, 1.5])


def test_fitted_variances_outside_are_at_least_four_times_those_inside():
    x = blurs()
    net = net_of([[1.0] * 36, [0.0] * 36])
    found = fit_ccu(net, x, seed=0, components=5)
    assert (found.outside.sigmas.min() >= 2 * found.inside.sigmas.max() * (1 - 1e-12)).all()
    again = fit_ccu(net, x, ood=x, seed=0, components=5)  # others that are no wider
    torch.testing.assert_close(again.outside.sigmas, (2 * found.inside.sigmas.max()).expand(5))
    torch.testing.assert_close(found(blurs(8, seed=1)), found(blurs(8, seed=1)))


def test_held_out_images_score_below_noise():
    net = net_of([[1.0] * 36, [0.0] * 36])
    found = fit_ccu(net, blurs(), seed=0, components=5)
    noise = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert found(blurs(20, seed=1)).max() < found(noise).min()


def test_noise_keeps_half_of_its_pixels_from_the_images_and_stays_in_the_box():
    x = blurs(6)
    found = noise_like(x, torch.Generator().manual_seed(0))
    assert found.shape == x.shape and found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, noise_like(x, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, noise_like(x, torch.Generator().manual_seed(1)))
    black = noise_like(torch.zeros(4, 1, 5, 5), torch.Generator().manual_seed(0))
    assert (black[::2].amax((1, 2, 3)) - black[::2].amin((1, 2, 3)) < 1e-6).all()  # of black pixels
    assert (black[1::2].amax((1, 2, 3)) - black[1::2].amin((1, 2, 3)) > 0.1).all()  # of noise


def test_what_cannot_be():
    net = net_of([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="`outside` must have sigmas > those inside, got 1 and 1"):
        CCU(net, identity(2), one(1.0), one(1.0))
    with pytest.raises(ValueError, match="`x` must have images that differ, got copies of one"):
        fit_ccu(net, torch.ones(4, 1, 1, 2).double(), seed=0)
    with pytest.raises(ValueError, match="`x` must have at least 2 images to fit on, got 1"):
        fit_ccu(net, torch.ones(1, 1, 1, 2).double(), seed=0)
    with pytest.raises(ValueError, match="`components` must be >= 1, got 0"):
        fit_ccu(net, torch.rand(4, 1, 1, 2).double(), seed=0, components=0)
    detector = CCU(net_of([[1.0] * 3, [0.0] * 3]), identity(2), one(1.0), one(2.0))
    with pytest.raises(ValueError, match="`x` must have 2 numbers an image as the metric has, got 3"):
        detector(torch.rand(1, 1, 1, 3).double())
