"""The entropy of several networks by hand."""

from collections import OrderedDict
from math import log

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.ensemble import DeepEnsemble, log_entropy, mean_log_softmax


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def flat(weight):
    """A float64 classifier without bias whose features are the pixels."""
    head = nn.Linear(len(weight[0]), len(weight), bias=False)
    head.weight.data = torch.tensor(weight)
    return Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head)).double().eval())


def test_by_hand():
    # softmax (3/4, 1/4) and (1/2, 1/2), mean (5/8, 3/8)
    x = torch.ones(1, 1, 1, 1).double()
    detector = DeepEnsemble([flat([[log(3)], [0.0]]), flat([[0.0], [0.0]])])
    torch.testing.assert_close(detector.latent(x), double([log(3), 0, 0, 0]), atol=1e-7, rtol=1e-7)
    entropy = -(5 / 8 * log(5 / 8) + 3 / 8 * log(3 / 8))
    assert detector(x).item() == pytest.approx(entropy, rel=1e-7)


def test_disagreement_is_uncertainty():
    # each is sure, of another class: the mean softmax is (1/2, 1/2)
    x = torch.ones(1, 1, 1, 1).double()
    assert DeepEnsemble([flat([[50.0], [0.0]]), flat([[0.0], [50.0]])])(x).item() == pytest.approx(log(2))
    assert DeepEnsemble([flat([[50.0], [0.0]])] * 2)(x).item() < 1e-19


def test_log_entropy_is_the_printed_formula():
    logits = 4 * torch.randn(200, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(dim=2).mean(dim=1)
    torch.testing.assert_close(mean_log_softmax(logits).exp(), p)
    torch.testing.assert_close(log_entropy(mean_log_softmax(logits)).exp(), -(p * p.log()).sum(1), rtol=1e-10, atol=0)


def test_log_entropy_does_not_saturate():
    # p = (1, e^-200): e^-200 * 200 from the second class and e^-200 from the first
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[200.0, 0.0]], dtype=dtype, requires_grad=True)
        score = log_entropy(logits.log_softmax(dim=1))
        (gradient,) = torch.autograd.grad(score.sum(), logits)
        assert score.item() == pytest.approx(-200 + log(201), rel=1e-6)
        assert gradient.tolist()[0] == pytest.approx([-200 / 201, 200 / 201], rel=1e-4)


def test_log_entropy_is_smooth_across_the_series():
    # log(1 - p) = -18 is where -log p is replaced by 1 - p: no step, and the same slope on both sides
    lead = torch.linspace(16, 20, 401, dtype=torch.float64).requires_grad_()
    score = log_entropy(torch.stack([lead, torch.zeros_like(lead)], dim=1).log_softmax(dim=1))
    (slope,) = torch.autograd.grad(score.sum(), lead)
    assert (score.diff() < 0).all() and score.diff().diff().abs().max() < 1e-6
    assert slope.diff().abs().max() < 1e-4


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0], [1000.0, 1000.0, 0.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(logits, dtype):
    logits = torch.tensor([logits], dtype=dtype, requires_grad=True)
    score = log_entropy(logits.log_softmax(dim=1))
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    assert score.isfinite().all() and gradient.isfinite().all()


def test_derivative_by_differences():
    logits = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: log_entropy(mean_log_softmax(z)), logits)


def test_modes_of_the_members_are_not_touched():
    sure, training = flat([[1.0], [0.0]]), flat([[1.0], [0.0]])
    training.network.train()
    training.training = True
    assert not DeepEnsemble([sure]).training
    detector = DeepEnsemble([sure, training])
    assert detector.training and not sure.network.training and training.network.training


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"`nets` must have at least one classifier, got none"):
        DeepEnsemble([])
    x = torch.ones(2, 1, 1, 1).double()
    with pytest.raises(ValueError, match=r"`nets` must have the same classes, two at least, got \[2, 3\] logits"):
        DeepEnsemble([flat([[1.0], [0.0]]), flat([[1.0], [0.0], [0.0]])])(x)
    with pytest.raises(ValueError, match=r"two at least, got \[1\] logits"):
        DeepEnsemble([flat([[1.0]])])(x)
