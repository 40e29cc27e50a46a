"""What attacks differentiate in place of GAIA and S&I."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import relu

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA, SmoothAverages
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.smooth_relu import SmoothRelu
from oodattack.detectors.soft_density import SoftDensity
from oodattack.models.small import SmallResNet

VALUES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8)
CALLS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "function": relu,
    "torch.relu": torch.relu,
    "method": torch.Tensor.relu,
    "function in place": lambda z: relu(z, inplace=True),
    "torch.relu_": torch.relu_,
    "method in place": torch.Tensor.relu_,
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def small():
    """A classifier with random norms, float64, eval mode."""
    torch.manual_seed(0)
    network = SmallResNet(1, 3, width=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.15)
            nn.init.normal_(module.bias, 0, 0.3)
    return Classifier(network.double().eval())


def images(rows):
    """Inputs of varied brightness and contrast."""
    generator = torch.Generator().manual_seed(1)
    level = torch.rand(rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (level * torch.rand(rows, 1, 32, 32, generator=generator, dtype=torch.float64)).clamp(0, 1)


def ranks(scores):
    return scores.argsort().argsort().double()


def rank_correlation(a, b):
    return torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_smooth_relu_keeps_values_to_the_last_bit(values):
    for z in (torch.tensor(values), double(*values)):
        with SmoothRelu(5.0):
            assert torch.equal(relu(z), z.clamp(min=0))


def test_derivatives_of_smooth_relu_by_hand():
    # first: s = sigmoid(beta z); second: beta s (1 - s). At 0: 1/2 and 5/4; at log(3)/5: 3/4 and 5 * 3/16
    z = double(0.0, torch.tensor(3.0, dtype=torch.float64).log() / 5, -0.7, 1.3).requires_grad_()
    with SmoothRelu(5.0):
        out = relu(z)
    (first,) = torch.autograd.grad(out.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(first[:2], double(0.5, 0.75))
    torch.testing.assert_close(second[:2], double(1.25, 0.9375))
    s = 1 / (1 + (-5 * z.detach()).exp())
    torch.testing.assert_close(first.detach(), s)
    torch.testing.assert_close(second, 5 * s * (1 - s))


@EVERY_CALL
def test_smooth_relu_replaces_every_way_to_call_a_relu(call):
    z = double(-1.0, 0.0, 2.0).requires_grad_()
    with SmoothRelu(5.0):
        out = call(z * 1)
    (gradient,) = torch.autograd.grad(out.sum(), z)
    assert out.tolist() == [0, 0, 2]
    torch.testing.assert_close(gradient, torch.sigmoid(5 * z.detach()))
    (outside,) = torch.autograd.grad(call(z * 1).sum(), z)
    assert outside.tolist() == [0, 0, 1]


class Ignoring(nn.Module):
    """Calls its ReLU in place and ignores what it returns."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x):
        h = self.norm(x)
        h.relu_()
        return self.head(h.mean((2, 3)))


@pytest.mark.parametrize("build", [GaiaA, SIA])
def test_smooth_averages_leave_the_network_as_it_is(build):
    # a steep derivative is that of the ReLU, and the values were exact before: GAIA-A itself
    net, x = small(), images(4)
    detector = build(net) if build is GaiaA else build(net, steps=1)
    steep = SmoothAverages(net, detector.layers, detector.keep, beta=1e9)
    torch.testing.assert_close(steep.latent(x), detector.latent(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(steep(x), detector(x), rtol=1e-9, atol=0)


def shifted(weight=None):
    """Norm that subtracts 0.5 from one channel, ReLU, both positions as features, two classes."""
    norm, head = nn.BatchNorm2d(1, affine=False, eps=0.0), nn.Linear(2, 2, bias=False)
    norm.running_mean.fill_(0.5)
    if weight is not None:
        head.weight.data = torch.tensor(weight)
    parts = OrderedDict(norm=norm, relu=nn.ReLU(), flat=nn.Flatten(), head=head)
    return Classifier(nn.Sequential(parts).double().eval())


def test_smooth_averages_by_hand():
    # z = (0.5, -0.5), features f = (0.5, 0), logits (f1, -f1). inner = mean of sigmoid(2 z) = 1/2 by symmetry;
    # d(sum of log-softmax)/df = (-2 tanh f1, 0), so omega^2 = tanh(0.5)
    net, x = shifted([[1.0, 0.0], [-1.0, 0.0]]), double(1.0, 0.0).view(1, 1, 1, 2).requires_grad_()
    latent = SmoothAverages(net, ("norm",), 1.0, beta=2.0).latent(x)
    omega = torch.tanh(double(0.5)).sqrt()
    torch.testing.assert_close(latent, (0.5 / omega).view(1, 1))
    # f2 does not enter omega: d/dx2 = 2 s (1 - s) / 2 / omega with s = sigmoid(-1)
    s = torch.sigmoid(double(-1.0))
    (gradient,) = torch.autograd.grad(latent.sum(), x)
    torch.testing.assert_close(gradient[0, 0, 0, 1:], s * (1 - s) / omega)


def test_soft_density_by_hand():
    # z = (0.5, -0.5): mean of sigmoid(2 z) = 1/2 by symmetry; second image, z = (log 3) / 2 twice: 3/4
    net = shifted()
    bright = 0.5 + torch.tensor(3.0).double().log().item() / 2
    x = double([1.0, 0.0], [bright, bright]).view(2, 1, 1, 2)
    soft = SoftDensity(net, ("norm",), beta=2.0)
    torch.testing.assert_close(soft.latent(x), double([0.5], [0.75]))
    torch.testing.assert_close(soft(x), double(1 / 4, 9 / 16))


def test_steep_soft_density_is_the_density():
    # which ReLU is behind which norm: bn2 and the shortcut's norm see the ReLU of the sum. GAIA-Z counts gradients and
    # so knows nothing of that choice
    net, x = small(), images(8)
    detector = GaiaZ(net)
    steep = SoftDensity(net, detector.layers, beta=1e6)
    torch.testing.assert_close(steep.latent(x), detector.latent(x), rtol=0, atol=1e-3)
    torch.testing.assert_close(steep(x), detector(x), rtol=0, atol=1e-3)
    widths = [net.network.get_submodule(name).num_features for name in detector.layers]
    parts = dict(zip(detector.layers, steep.latent(x).split(widths, dim=1), strict=True))
    assert torch.equal(parts["layer2.bn2"], parts["layer2.shortcut.1"])  # one ReLU behind both
    assert not torch.allclose(parts["layer2.bn1"], parts["layer2.bn2"])


@pytest.mark.parametrize("build", [GaiaZ, SIZ])
def test_soft_density_orders_inputs_like_the_score(build):
    detector, x = build(small()), images(60)
    assert rank_correlation(detector.surrogate.score(x), detector(x)) > 0.8


@pytest.mark.parametrize("build", [GaiaA, SIA])
def test_smooth_averages_order_inputs_like_the_score(build):
    detector, x = build(small()), images(60)
    assert rank_correlation(detector.surrogate.score(x), detector(x)) > 0.9


@pytest.mark.parametrize("build", [GaiaZ, GaiaA])
def test_a_relu_in_place_whose_result_is_ignored_still_works(build):
    net = Classifier(Ignoring().double().eval())
    x = double(-1.0, 0.5).view(1, 2, 1, 1)
    detector = build(net, layers=["norm"])
    steep = SoftDensity(net, ("norm",), beta=1e9) if build is GaiaZ else SmoothAverages(net, ("norm",), 1.0, beta=1e9)
    torch.testing.assert_close(steep.latent(x), detector.latent(x), rtol=1e-9, atol=0)


def test_a_norm_without_relu_is_left_out_and_a_network_without_is_refused():
    torch.manual_seed(0)
    parts = OrderedDict(
        a=nn.BatchNorm2d(1),
        relu=nn.ReLU(),
        b=nn.BatchNorm2d(1),
        act=nn.LeakyReLU(0.1),
        flat=nn.Flatten(),
        head=nn.Linear(4, 2),
    )
    net, x = Classifier(nn.Sequential(parts).eval()), torch.rand(3, 1, 2, 2)
    assert SoftDensity(net, ("a", "b")).latent(x).shape == (3, 1)
    with pytest.raises(ValueError, match="must have ReLUs behind its norm layers for this surrogate, got none"):
        SoftDensity(net, ("b",))(x)


def test_gaia_z_and_si_z_share_an_attack():
    # equal surrogates, not only equal values: both the score and the latent
    net, other = small(), small()
    assert GaiaZ(net).surrogate == SIZ(net).surrogate
    assert GaiaZ(net).surrogate != GaiaZ(other).surrogate
    assert GaiaZ(net).surrogate != GaiaZ(net, layers=["layer1.bn1"]).surrogate
    assert GaiaA(net).surrogate.score != SIA(net).surrogate.score  # these keep different features
    stand_in, x = GaiaZ(net).surrogate, images(2)
    assert torch.equal(stand_in.latent(x).square().mean(1), stand_in.score(x))
