"""The three scores of a joint energy model."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.energy import Energy
from oodattack.detectors.jem import JemGradient, JemPx, JemPy, gradient_norm
from oodattack.detectors.msp import MSP
from oodattack.models.small import SmallResNet

EVERY = pytest.mark.parametrize("kind", [JemPx, JemPy, JemGradient])
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


def linear(*rows):
    """A float64 classifier with logits W x of two pixels."""
    head = nn.Linear(2, len(rows), bias=False, dtype=torch.float64)
    head.weight.data = torch.tensor(rows, dtype=torch.float64)
    return Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head)).eval())


def small(dtype=torch.float64, scale=1.0):
    """A residual network of random weights, its head scaled."""
    torch.manual_seed(0)
    network = SmallResNet(1, 3, width=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.05, 0.15)
            nn.init.normal_(module.bias, 0, 0.3)
    network.head.weight.data *= scale
    return Classifier(network.to(dtype).eval(), mean=[0.5], std=[0.25])


def images(rows, dtype=torch.float64):
    return torch.rand(rows, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def pixels(a, b):
    return torch.tensor([a, b], dtype=torch.float64).view(1, 2, 1, 1)


def callables(detector):
    stand_in = getattr(detector, "surrogate", None)
    return [f for f in (detector, detector.latent, getattr(stand_in, "score", None)) if f is not None]


def test_density_is_the_energy_and_the_class_probability_the_softmax():
    net, x = small(), images(6)
    assert torch.equal(JemPx(net)(x), Energy(net)(x)) and torch.equal(JemPx(net).latent(x), net.logits(x))
    assert torch.equal(JemPy(net)(x), MSP(net)(x)) and JemPy(net).surrogate == MSP(net).surrogate  # attacked once


def test_norm_by_hand():
    # f = (4a - 4b, 4b - 4a): d LSE/dx = (p_1 - p_2)(4, -4) with p_1 - p_2 = tanh(4a - 4b); length sqrt(32) |tanh|
    net = linear((4.0, -4.0), (-4.0, 4.0))
    for a, b in ((1.0, 0.0), (0.6, 0.5), (0.25, 0.75)):
        assert JemGradient(net)(pixels(a, b)).item() == pytest.approx(math.sqrt(32) * abs(math.tanh(4 * (a - b))))
    assert JemGradient(net)(pixels(0.5, 0.5)).item() == 0


def test_norm_is_per_unit_of_the_image():
    # mean and std inside: d/dx of f((x - 0.5) / 0.25) is four times as long
    head = nn.Linear(1, 2, bias=False, dtype=torch.float64)
    head.weight.data = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    net = Classifier(nn.Sequential(nn.Flatten(), head), mean=[0.5], std=[0.25])
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    assert gradient_norm(net, x).item() == pytest.approx(4 * 0.5)  # p = (1/2, 1/2)


@EVERY
def test_ood_scores_higher(kind):
    net = linear((4.0, -4.0), (-4.0, 4.0))
    sure, undecided = kind(net)(pixels(1, 0)), kind(net)(pixels(0.5, 0.5))
    assert (undecided < sure if kind is JemGradient else undecided > sure + 0.01).all()


@EVERY
@DTYPES
def test_scores_of_any_batch_and_nothing_left_behind(kind, dtype, tolerance):
    detector, x = kind(small(dtype)), images(6, dtype)
    filled = x.clone()
    for f in callables(detector):
        whole = f(x).detach()
        assert whole.dtype == dtype and whole.isfinite().all() and len(whole) == 6
        single = torch.cat([f(row[None]).detach() for row in x])
        torch.testing.assert_close(single, whole, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(f(x.flip(0)).detach().flip(0), whole, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            without = f(x)
        assert not without.requires_grad and torch.equal(without, whole)
        assert torch.equal(f(x.clone().requires_grad_()).detach(), whole)
    assert torch.equal(x, filled) and x.grad is None and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert not detector.training and detector.net.training is False


def test_surrogate_has_the_values_of_the_score():
    detector, x = JemGradient(small()), images(8)
    assert detector.surrogate.exact and torch.equal(detector.surrogate.score(x), detector(x))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_surrogate_has_a_gradient_where_one_class_is_certain(scale):
    # the curvature of logsumexp is p (1 - p): nothing is left of it
    detector, x = JemGradient(small(torch.float32, scale)), images(4, torch.float32).requires_grad_()
    (own,) = torch.autograd.grad(detector(x).sum(), x)
    (soft,) = torch.autograd.grad(detector.surrogate.score(x).sum(), x)
    own, soft = own.flatten(1).norm(dim=1), soft.flatten(1).norm(dim=1)
    assert soft.isfinite().all() and (soft > 1e-3).all()
    assert (own.median() < 1e-6) == (scale > 1)


def test_a_flat_density_has_no_infinite_gradient():
    net = linear((4.0, -4.0), (-4.0, 4.0))
    x = pixels(0.5, 0.5).requires_grad_()
    for f in (JemGradient(net), JemGradient(net).surrogate.score):
        assert torch.autograd.grad(f(x).sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("down", [True, False])
def test_attack_on_the_surrogate_moves_the_score_either_way(down):
    detector, x = JemGradient(small(scale=30.0)), images(4)
    clean = best = detector(x).detach()
    z = x
    for _ in range(20):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        step = 0.005 * gradient.sign()
        z = (x + (z - step if down else z + step).detach().sub(x).clamp(-0.03, 0.03)).clamp(0, 1)
        best = best.minimum(detector(z).detach()) if down else best.maximum(detector(z).detach())
    assert (best < 0.8 * clean).all() if down else (best > 1.2 * clean).all()


def test_no_hooks_and_no_mode_are_left_after_an_exception():
    detector = JemGradient(small())

    def fail(*_):
        raise RuntimeError("out of memory")

    for f in callables(detector):
        handle = detector.net.network.layer3.conv2.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            f(images(2))
        handle.remove()
    z = torch.tensor([0.01], requires_grad=True)
    assert torch.autograd.grad(nn.functional.relu(z).sum(), z)[0].item() == 1  # no smoothed ReLU
