"""Regrets by hand, and by the formula as it is printed."""

from collections import OrderedDict
from math import log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.pnml import PNML, fit_pnml, log_regret

pytestmark = pytest.mark.usefixtures("any_pixels")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def flat(weight):
    """A float64 classifier without bias whose features are the pixels."""
    head = nn.Linear(len(weight[0]), len(weight), bias=False)
    head.weight.data = torch.tensor(weight)
    return Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head)).double().eval())


def pixels(*rows):
    return double(*rows)[:, :, None, None]


def printed(logits, q):
    """log sum_k p_k / (p_k + (1 - p_k) p_k^g)."""
    p, g = logits.softmax(dim=1), (q / (1 + q))[:, None]
    return (p / (p + (1 - p) * p**g)).sum(dim=1).log()


@pytest.fixture
def detector():
    # unit features (1, 0) three times and (0, 1): moment diag(3, 1)
    net = flat([[5.0, log(4)], [1.0, 0.0]]).double()
    return fit_pnml(net, pixels([1, 0], [2, 0], [0.5, 0], [0, 2]), batch_size=3)


def test_fit_by_hand(detector):
    torch.testing.assert_close(detector.whitening @ detector.whitening.T, torch.diag(double(1 / 3, 1)))


def test_score_by_hand(detector):
    # (0, 0.7) becomes (0, 1): q = 1, g = 1/2, logits (log 4, 0), p = (0.8, 0.2)
    total = 0.8 / (0.8 + 0.2 * sqrt(0.8)) + 0.2 / (0.2 + 0.8 * sqrt(0.2))
    assert detector(pixels([0, 0.7])).item() == pytest.approx(log(total) / log(2), rel=1e-6)


def test_only_the_direction_of_features_counts(detector):
    torch.testing.assert_close(detector(pixels([0.3, 0.1])), detector(pixels([0.9, 0.3])))


def test_it_is_the_printed_formula():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    q = 5 * torch.rand(200, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(log_regret(logits, q).exp().log1p(), printed(logits, q), rtol=1e-10, atol=1e-14)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.floats(0, 100))
def test_regret_is_positive_bounded_and_grows_with_the_projection(values, q):
    logits, less, more = double(values), double(q), double(q + 1)
    assert log_regret(logits, less).item() < log_regret(logits, more).item()
    assert 0 <= log_regret(logits, more).exp().log1p().item() < log(len(values))


def test_log_regret_does_not_saturate():
    # two classes 200 apart: p_2 (1 - p_2^g) / p_2^g = exp(-200 (1 - g)) with g = 1/2; in float32 1 - p = 0
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[200.0, 0.0]], dtype=dtype, requires_grad=True)
        score = log_regret(logits, torch.ones(1, dtype=dtype))
        (gradient,) = torch.autograd.grad(score.sum(), logits)
        assert score.item() == pytest.approx(-100, rel=1e-6)
        assert gradient.tolist()[0] == pytest.approx([-0.5, 0.5], rel=1e-5)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0], [1000.0, 1000.0, 0.0], [-1000.0, 0.0, 1e-9]])
@pytest.mark.parametrize("q", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(logits, q, dtype):
    logits = torch.tensor([logits], dtype=dtype, requires_grad=True)
    projection = torch.tensor([q], dtype=dtype, requires_grad=True)
    score = log_regret(logits, projection)
    gradients = torch.autograd.grad(score.sum(), [logits, projection])
    assert score.isfinite().all() and all(g.isfinite().all() for g in gradients)


def test_derivative_by_differences():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    q = torch.rand(4, generator=generator, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(log_regret, (logits.requires_grad_(), q.requires_grad_()))


def test_directions_without_training_features_are_left_out():
    # the second feature is never used: its direction has no projection, and rounding noise there is no direction either
    net = flat([[1.0, 0.0], [0.0, 1.0]])
    detector = fit_pnml(net, pixels([1, 0], [2, 1e-7]))
    assert detector.whitening.shape == (2, 1)
    assert fit_pnml(net, pixels([1, 0], [2, 1e-7]), rcond=0.0).whitening.shape == (2, 2)


def test_refuses_what_does_not_fit():
    net = flat([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"`rcond` must be in \[0, 1\), got 1"):
        fit_pnml(net, pixels([1, 0]), rcond=1)
    with pytest.raises(ValueError, match=r"`whitening` must have the shape \(2, rank\), got \(3, 1\)"):
        PNML(net, torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"`net` must have at least 2 classes, got 1"):
        PNML(flat([[1.0, 0.0]]), torch.eye(2))
    with pytest.raises(ValueError, match=r"`x` must have images to fit on, got 0"):
        fit_pnml(net, torch.zeros(0, 2, 1, 1).double())
