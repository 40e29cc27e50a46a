"""Scores of logits, by hand: msp, max logit, energy and ODIN."""

from collections import OrderedDict
from math import exp, log, log1p, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.energy import Energy, energy
from oodattack.detectors.gradnorm import GradNorm
from oodattack.detectors.max_logit import max_logit
from oodattack.detectors.msp import MSP, log_odds, msp
from oodattack.detectors.odin import ODIN, signed_step
from oodattack.detectors.oe_score import OEScore
from oodattack.detectors.outlier_class import OutlierClass

LOGITS = st.lists(st.floats(-30, 30), min_size=2, max_size=6)


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def linear(weight, bias=None):
    """A classifier with logits W x + b of the flattened image."""
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    layer.weight.data = double(*weight)
    layer.bias.data = torch.zeros(len(weight), dtype=torch.float64) if bias is None else double(*bias)
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval())


def test_msp_by_hand():
    # softmax of (log 1, log 2, log 5) is (1, 2, 5) / 8: 1 - 5/8; of three equal ones 1 - 1/3
    scores = msp(double([log(1), log(2), log(5)], [7, 7, 7]))
    torch.testing.assert_close(scores, double(3 / 8, 2 / 3))


def test_log_odds_by_hand():
    # p = 5/8: log(3/5); p = 1/3: log 2; two classes: minus the difference of the logits
    odds = log_odds(double([log(1), log(2), log(5)], [7, 7, 7]))
    torch.testing.assert_close(odds, double(log(3 / 5), log(2)))
    torch.testing.assert_close(log_odds(double([1.0, 4.5])), double(-3.5))


def test_log_odds_do_not_saturate_in_float32_and_msp_late():
    logits = torch.tensor([[40.0, 0.0], [80.0, 0.0], [100.0, 0.0]])
    assert (1 - logits.softmax(1).amax(1)).tolist() == [0, 0, 0]  # what 1 - p makes of them
    assert log_odds(logits).tolist() == [-40, -80, -100]
    scores = msp(logits)
    assert scores[0] > scores[1] > 0
    assert scores[2] == 0  # e^-100 is below the normal numbers of float32; that is what the surrogate is for
    assert scores[1].item() == pytest.approx(exp(-80), rel=1e-5)


def test_gradient_of_log_odds_is_of_order_1_where_that_of_the_softmax_is_0():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(logits).sum(), logits)
    assert gradient.tolist() == [[-1, 1]]
    assert torch.autograd.grad(logits.softmax(1).amax(), logits)[0].abs().sum() == 0


@settings(max_examples=50, deadline=None)
@given(LOGITS)
def test_msp_is_one_minus_the_largest_softmax(logits):
    z = double(logits)
    torch.testing.assert_close(msp(z), 1 - z.softmax(1).amax(1), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(msp(z), msp(z + 3), rtol=1e-9, atol=0)  # a common shift changes nothing


def test_max_logit_by_hand():
    assert max_logit(double([1, -2, 4], [-5, -3, -9])).tolist() == [-4, 3]


def test_energy_by_hand():
    # -log(1 + 3 + 4) = -log 8; T = 2 on logits (2 log 3, 0): -2 log(3 + 1)
    torch.testing.assert_close(energy(double([log(1), log(3), log(4)])), double(-log(8)))
    torch.testing.assert_close(energy(double([2 * log(3), 0]), temperature=2.0), double(-2 * log(4)))
    torch.testing.assert_close(
        Energy(linear([[1.0], [0.0]]), temperature=0.5)(double(1.0).view(1, 1, 1, 1)), double(-0.5 * log(exp(2) + 1))
    )


@settings(max_examples=50, deadline=None)
@given(LOGITS)
def test_energy_is_between_its_bounds(logits):
    # max <= logsumexp <= max + log K
    z = double(logits)
    assert max_logit(z).item() + 1e-9 >= energy(z).item() >= max_logit(z).item() - log(len(logits)) - 1e-9


def test_signed_step_by_hand():
    # score 2 a - 3 b + 0 c: gradient signs (+, -, 0 counts as +); the step goes downhill
    x = double(0.5, 0.5, 0.5).view(1, 3, 1, 1)
    score = lambda z: 2 * z[:, 0, 0, 0] - 3 * z[:, 1, 0, 0] + 0 * z[:, 2, 0, 0]
    torch.testing.assert_close(signed_step(score, x, 0.1).flatten(), double(0.4, 0.6, 0.4))
    assert signed_step(score, x, 0.0) is x


def test_signed_step_differentiates_as_the_identity():
    x = double(0.3, 0.7).view(1, 2, 1, 1).requires_grad_()
    moved = signed_step(lambda z: z.square().flatten(1).sum(1), x, 0.1)
    (gradient,) = torch.autograd.grad((moved * double(5, 7).view(1, 2, 1, 1)).sum(), x)
    assert gradient.flatten().tolist() == [5, 7]


def test_odin_on_a_linear_network():
    # logits (2 a - b, 0), x = (0.5, 0.25): class 0 leads by 0.75. The step raises a and lowers b by 0.1, so the lead is
    # 0.75 + 0.1 * (2 + 1) = 1.05; at T = 10 the score is 1 / (1 + e^0.105)
    net = linear([[2.0, -1.0], [0.0, 0.0]])
    detector = ODIN(net, temperature=10.0, magnitude=0.1)
    x = double(0.5, 0.25).view(1, 2, 1, 1)
    torch.testing.assert_close(detector.latent(x), double([1.05, 0.0]))
    torch.testing.assert_close(detector(x), double(1 / (1 + exp(0.105))))
    torch.testing.assert_close(detector.surrogate.score(x), double(-0.105))
    # where class 1 leads the step goes the other way: lead 0.25 of class 1, then 0.55
    torch.testing.assert_close(detector.latent(double(0.0, 0.25).view(1, 2, 1, 1)), double([-0.55, 0.0]))


def test_odin_steps_in_input_units_whatever_the_normalisation():
    # std 0.5 doubles what the network sees of a step: lead 2 * (0.5 + 0.1)
    net = Classifier(linear([[1.0], [0.0]]).network, mean=[0.0], std=[0.5])
    torch.testing.assert_close(ODIN(net, magnitude=0.1).latent(double(0.5).view(1, 1, 1, 1)), double([1.2, 0.0]))


def test_odin_without_step_and_temperature_is_msp():
    net, x = linear([[2.0, -1.0], [0.5, 3.0], [1.0, 1.0]]), double(0.2, 0.9).view(1, 2, 1, 1)
    assert torch.equal(ODIN(net, temperature=1.0, magnitude=0.0)(x), MSP(net)(x))


def test_impossible_parameters_are_refused():
    net = linear([[1.0], [0.0]])
    for t in (0.0, -2.0, nan):
        with pytest.raises(ValueError, match=f"`temperature` must be > 0, got {t}"):
            ODIN(net, temperature=t)
        with pytest.raises(ValueError, match=f"`temperature` must be > 0, got {t}"):
            Energy(net, temperature=t)
    for magnitude in (-1.0, nan):
        with pytest.raises(ValueError, match=f"`magnitude` must be >= 0, got {magnitude}"):
            ODIN(net, magnitude=magnitude)


def test_surrogates_of_the_same_network_are_equal():
    # so that two detectors share one attack
    net, other = linear([[1.0], [0.0]]), linear([[1.0], [0.0]])
    assert MSP(net).surrogate == MSP(net).surrogate
    assert MSP(net).surrogate != MSP(other).surrogate
    assert MSP(net).surrogate.score(double(0.5).view(1, 1, 1, 1)).item() == pytest.approx(log(1 / exp(0.5)))
    assert msp(double([0.5, 0])).item() == pytest.approx(exp(-log1p(exp(0.5))))


def test_odin_tells_images_of_a_thousand_classes_apart():
    # at T = 1000 all softmax are near 1e-3: float32 would leave a handful of values
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(16, 1000))).eval()
    scores = ODIN(Classifier(network), magnitude=0.0)(torch.rand(500, 1, 4, 4))
    assert len(scores.unique()) > 490


@pytest.mark.parametrize("kind", [MSP, ODIN, OEScore, OutlierClass, GradNorm])
def test_one_class_is_refused(kind):
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(16, 1))).eval()
    with pytest.raises(ValueError, match=r"must give logits of 2 classes or more, got \(3, 1\)"):
        kind(Classifier(network))(torch.rand(3, 1, 4, 4))


def test_gradnorm_refuses_a_head_whose_output_is_not_the_logits():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            return 20 * self.fc(x.flatten(1))

    with pytest.raises(ValueError, match="the output of head 'fc' must be the logits, got others"):
        GradNorm(Classifier(Scaled().eval()))(torch.rand(3, 1, 4, 4))
