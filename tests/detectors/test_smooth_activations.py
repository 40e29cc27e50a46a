"""GAIA and S&I behind activations other than the ReLU: what the scores do there and what attacks differentiate."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.jem import JemGradient
from oodattack.detectors.open_window import rounding_edges
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.smooth_relu import SmoothRelu
from oodattack.detectors.soft_density import SoftDensity
from oodattack.metrics import rank_correlation

INF = float("inf")
CLAMPED = {
    "relu6": (nn.ReLU6(), 0, 6),
    "relu6 in place": (nn.ReLU6(inplace=True), 0, 6),
    "relu6 function": (functional.relu6, 0, 6),
    "hardtanh": (nn.Hardtanh(-0.5, 2.0), -0.5, 2),
    "hardtanh in place": (nn.Hardtanh(-1.0, 1.0, inplace=True), -1, 1),
    "hardtanh function": (lambda z: functional.hardtanh(z, -1.0, 1.0), -1, 1),  # 1.0 == True is no `inplace`
    "hardtanh_": (functional.hardtanh_, -1, 1),
    "hardsigmoid": (nn.Hardsigmoid(), -3, 3),
    "hardswish": (nn.Hardswish(), -3, INF),
    "hardswish in place": (nn.Hardswish(inplace=True), -3, INF),
}
SLOPED = {
    "leaky": nn.LeakyReLU(0.1),
    "leaky in place": nn.LeakyReLU(0.1, inplace=True),
    "leaky function": lambda z: functional.leaky_relu(z, 0.1),
    "leaky_relu_": lambda z: functional.leaky_relu_(z, 0.1),
    "prelu": nn.PReLU(8),
    "prelu, one slope": nn.PReLU(),
}
SATURATING = {
    "gelu": nn.GELU(),
    "gelu function": functional.gelu,
    "silu": nn.SiLU(),
    "silu in place": nn.SiLU(inplace=True),
    "elu": nn.ELU(),
    "elu function": functional.elu,
    "tanh": nn.Tanh(),
    "torch.tanh": torch.tanh,
    "tanh method": torch.Tensor.tanh,
    "sigmoid": nn.Sigmoid(),
    "sigmoid method": torch.Tensor.sigmoid,
}


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


class Residual(nn.Module):
    """Stem and one residual block with a given activation, norms of random scale `gain`."""

    def __init__(self, act, gain):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.head = act, nn.Linear(8, 4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.05, 0.15)
                nn.init.normal_(module.bias, 0, 0.5 * gain)
                nn.init.uniform_(module.weight, 0.5 * gain, 1.5 * gain)

    def forward(self, x):
        h = self.act(self.norm1(self.conv1(x)))
        h = self.act(h + self.norm3(self.conv3(self.act(self.norm2(self.conv2(h))))))
        return self.head(h.mean((2, 3)))


def classifier(act, gain=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    if isinstance(act, nn.PReLU):
        act.weight.data.fill_(0.25)
    return Classifier(Residual(act, gain).to(dtype).eval())


def images(rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    level = torch.rand(rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (level * torch.rand(rows, 1, 16, 16, generator=generator, dtype=torch.float64)).to(dtype)


def chain(**parts):
    return Classifier(nn.Sequential(OrderedDict(**parts, flat=nn.Flatten(), head=nn.Linear(4, 2))).double().eval())


def attacked(detector, x, eps=0.05, steps=15):
    """The lowest score that sign steps on the surrogate find."""
    best, z = detector(x), x
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        z = (x + (z - eps / 4 * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1).detach()
        best = best.minimum(detector(z))
    return best


@pytest.mark.parametrize(("act", "low", "high"), CLAMPED.values(), ids=CLAMPED)
def test_soft_density_is_open_between_the_edges(act, low, high):
    # four positions of a norm's output, at -3.5 .. 6.5: a steep density counts those inside
    norm = nn.BatchNorm2d(1, affine=False, eps=0.0)
    values = [-3.5, -0.25, 0.75, 6.5]
    layer = act if isinstance(act, nn.Module) else nn.Identity()
    net = chain(norm=norm, act=layer)
    if layer is not act:
        net.network.act.forward = lambda z: act(z * 1)
    soft = SoftDensity(net, ("norm",), beta=1e4)
    share = sum(low < v < high for v in values) / 4
    assert soft.latent(double(values).view(1, 1, 2, 2)).item() == pytest.approx(share, abs=1e-6)


def test_soft_density_of_two_edges_by_hand():
    # sigmoid(2 (z - 0)) sigmoid(2 (6 - z)) at z = 0 and 3
    norm, x = nn.BatchNorm2d(1, affine=False, eps=0.0), double(0, 0, 3, 3).view(1, 1, 2, 2)
    s = double(0, 12, 6, 6).sigmoid()
    wanted = (s[0] * s[1] + s[2] * s[3]) / 2
    torch.testing.assert_close(SoftDensity(chain(norm=norm, act=nn.ReLU6()), ("norm",), 2.0).latent(x)[0, 0], wanted)


@pytest.mark.parametrize("act", [v[0] for v in CLAMPED.values()] + list(SLOPED.values()), ids=[*CLAMPED, *SLOPED])
def test_smoothing_keeps_values_and_softens_derivatives(act):
    z = torch.randn(2, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    if isinstance(act, nn.Module):
        act = act.double()
    with SmoothRelu(20.0):
        inside = act(z.clone())
    assert torch.equal(inside, act(z.clone()))
    leaf = z.clone().requires_grad_()
    (plain,) = torch.autograd.grad(act(leaf * 1).sum(), leaf)
    with SmoothRelu(1e6):
        (soft,) = torch.autograd.grad(act(leaf * 1).sum(), leaf, create_graph=True)
    torch.testing.assert_close(soft.detach(), plain, rtol=0, atol=0.02)
    with SmoothRelu(2.0):
        (soft,) = torch.autograd.grad(act(leaf * 1).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(soft.sum(), leaf)
    assert (second != 0).double().mean() > 0.9


@pytest.mark.parametrize("build", [GaiaZ, SIZ])
@pytest.mark.parametrize("name", ["relu6", "relu6 in place", "hardtanh", "hardtanh function", "hardswish in place"])
def test_densities_order_inputs_like_the_score_and_attacks_move_it(name, build):
    gain = 6.0 if "swish" in name else 1.0  # a hard-swish shuts below -3 only
    detector, x = build(classifier(CLAMPED[name][0], gain)), images(50)
    score = detector(x)
    assert rank_correlation(detector.surrogate.score(x).detach(), score) > 0.9
    assert (attacked(detector, x[:6]) < score[:6]).all()


@pytest.mark.parametrize("build", [GaiaA, SIA])
@pytest.mark.parametrize("name", ["relu6", "hardtanh in place", "hardswish", *SLOPED, *SATURATING])
def test_averages_order_inputs_like_the_score_and_attacks_move_it(name, build):
    act = CLAMPED[name][0] if name in CLAMPED else {**SLOPED, **SATURATING}[name]
    detector, x = build(classifier(act)), images(50)
    score, leaf = detector(x), x[:4].clone().requires_grad_()
    assert rank_correlation(detector.surrogate.score(x).detach(), score) > 0.9
    (gradient,) = torch.autograd.grad(detector.surrogate.score(leaf).sum(), leaf)
    assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()
    assert (attacked(detector, x[:4], steps=6) < score[:4]).all()


@pytest.mark.parametrize("act", SATURATING.values(), ids=SATURATING)
def test_averages_of_a_smooth_network_are_exact(act):
    detector, x = GaiaA(classifier(act)), images(4)
    torch.testing.assert_close(detector.surrogate.score(x).detach(), detector(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("act", SATURATING.values(), ids=SATURATING)
def test_zero_counts_of_a_smooth_network_are_constant_and_the_surrogate_still_has_a_gradient(act):
    detector, x = GaiaZ(classifier(act)), images(4)
    assert (detector(x) == 1).all()
    leaf = x.float().requires_grad_()
    (gradient,) = torch.autograd.grad(GaiaZ(classifier(act, dtype=torch.float32)).surrogate.score(leaf).sum(), leaf)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.ELU(), nn.Tanh()], ids=lambda a: type(a).__name__)
def test_where_rounding_shuts_a_smooth_activation_the_surrogate_follows(act):
    detector, x = GaiaZ(classifier(act, 6.0, torch.float32)), images(50, torch.float32)
    score = detector(x)
    assert score.max() < 1
    assert rank_correlation(detector.surrogate.score(x).detach(), score) > 0.9
    assert attacked(detector, x[:6]).mean() < score[:6].mean() - 0.5 * score.std()


def test_rounding_edges():
    # 1 - tanh(z)^2 rounds to 0 where tanh(z) rounds to 1: 2 exp(-2 z) below half a unit in the last place
    for dtype, edge in ((torch.float32, 9.0), (torch.float64, 19.0)):
        low, high = rounding_edges(torch.tanh, (), (), dtype, "cpu")
        assert high == pytest.approx(edge, abs=0.2) and low == -high
    assert rounding_edges(functional.softplus, (), (), torch.float32, "cpu")[1] == INF


@pytest.mark.parametrize("act", [*SLOPED.values(), nn.Identity()], ids=[*SLOPED, "none"])
def test_without_a_flat_part_the_score_is_constant_and_the_surrogate_says_so(act):
    detector, x = GaiaZ(classifier(act)), images(3)
    assert (detector(x) == 1).all()
    with pytest.raises(ValueError, match="the score is 1 on every input: use gaia-a or si-a"):
        detector.surrogate.score(x)


class Bottleneck(nn.Module):
    """A norm followed by a convolution (linear bottleneck) beside one followed by a ReLU6, and a gate on the last."""

    def __init__(self):
        super().__init__()
        self.conv1, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.gated = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.squeeze, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        h = functional.relu6(self.norm2(self.conv2(self.linear(self.conv1(x)))))
        h = self.gated(self.conv3(h))
        gate = functional.relu(self.squeeze(h.mean((2, 3), keepdim=True))).sigmoid()
        return self.head(functional.relu(h * gate).mean((2, 3)))


def test_a_norm_that_reaches_a_convolution_is_open_everywhere_and_left_out():
    torch.manual_seed(0)
    net, x = Classifier(Bottleneck().double().eval()), images(4)
    hard = dict(zip(("linear", "norm2", "gated"), GaiaZ(net).latent(x).split(4, dim=1), strict=True))
    assert (hard["linear"] == 1).all()
    assert hard["norm2"].min() < 0.9
    soft = SoftDensity(net, ("linear", "norm2", "gated"), beta=1e6).latent(x)
    torch.testing.assert_close(soft, hard["norm2"], rtol=0, atol=0.02)


def zeros(z):
    return torch.zeros_like(z)


SPELLED = {
    "clamp": lambda z: z.clamp(min=0),
    "clamp of torch": lambda z: torch.clamp(z, 0),
    "clamp with two bounds": lambda z: z.clamp(0.0, None),
    "clamp with a tensor": lambda z: z.clamp(min=z.new_zeros(())),
    "clamp in place": lambda z: z.clamp_(0),
    "clip": lambda z: torch.clip(input=z, min=0.0),
    "clip in place": lambda z: z.clip_(min=0),
    "clamp_min": lambda z: z.clamp_min(0),
    "clamp_min of torch": lambda z: torch.clamp_min(z, 0.0),
    "clamp_min in place": lambda z: torch.clamp_min_(z, 0),
    "maximum": lambda z: torch.maximum(z, zeros(z)),
    "maximum the other way round": lambda z: zeros(z).maximum(z),
    "maximum with one zero": lambda z: torch.maximum(z, other=z.new_zeros(())),
    "max": lambda z: torch.max(z.new_zeros(1), z),
    "threshold": lambda z: functional.threshold(z, 0, 0),
    "threshold of torch": lambda z: torch.threshold(z, threshold=0.0, value=0.0),
    "threshold module": nn.Threshold(0, 0),
    "threshold module in place": nn.Threshold(0.0, 0.0, inplace=True),
    "threshold in place": lambda z: functional.threshold_(z, 0, 0),
}
SURROGATES = [GaiaZ, GaiaA, SIZ, SIA, JemGradient]


def stand_in(build, act, x):
    """Values and gradients of what an attack differentiates."""
    leaf = x.clone().requires_grad_()
    values = build(classifier(act)).surrogate.score(leaf)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize("build", SURROGATES)
@pytest.mark.parametrize("act", SPELLED.values(), ids=SPELLED)
def test_a_relu_is_a_relu_however_it_is_spelled(act, build):
    for found, wanted in zip(stand_in(build, act, images(4)), stand_in(build, nn.ReLU(), images(4)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("build", SURROGATES)
@pytest.mark.parametrize("act", [lambda z: z.clamp(0, 6), lambda z: torch.clip_(z, 0.0, max=6)], ids=["clamp", "clip_"])
def test_a_clamp_to_0_and_6_is_a_relu6(act, build):
    for found, wanted in zip(stand_in(build, act, images(4)), stand_in(build, nn.ReLU6(), images(4)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)


OTHERS = {
    "clamp at a small number": lambda z: z.clamp(min=1e-6),
    "clamp from above": lambda z: z.clamp(max=0),
    "clamp of images": lambda z: z.clamp(0, 1),
    "clamp around zero": lambda z: z.clamp(-2, 2),
    "maximum of two branches": lambda z: torch.maximum(z, -z),
    "max over positions": lambda z: z.max(dim=-1, keepdim=True).values,
    "max over everything": lambda z: z.max(),
    "threshold": lambda z: functional.threshold(z, 0.5, 0.0),
    "clamp of integers": lambda z: z.long().clamp(min=0),
    "maximum of another shape": lambda z: torch.maximum(z[:1], torch.zeros_like(z)),
    "maximum of another type": lambda z: torch.maximum(z.float(), torch.zeros_like(z)),
    "clamp elsewhere": lambda z: torch.clamp(z, min=0, out=torch.empty(0, dtype=z.dtype)),
}


@pytest.mark.parametrize("f", OTHERS.values(), ids=OTHERS)
def test_what_is_no_relu_is_left_alone(f):
    z = images(2) - 0.5
    leaf, twin = z.clone().requires_grad_(), z.clone().requires_grad_()
    if f is OTHERS["clamp elsewhere"]:  # which autograd refuses
        leaf, twin = z.clone(), z.clone()
    with SmoothRelu(1.0):
        inside = f(leaf)
    outside = f(twin)
    assert torch.equal(inside, outside)
    if outside.requires_grad:
        (found,), (wanted,) = torch.autograd.grad(inside.sum(), leaf), torch.autograd.grad(outside.sum(), twin)
        assert torch.equal(found, wanted)
