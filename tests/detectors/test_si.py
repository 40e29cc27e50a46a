"""S&I against GAIA (T = 1) and against a plain version that cuts a small network by hand, no hooks (T = 2, 3)."""

from collections import OrderedDict
from math import exp, tanh

import pytest
import torch
from torch import nn
from torch.autograd import grad
from torch.nn.functional import cross_entropy

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.layer_gradients import SignPath, sign_steps
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ

ETA = 0.05  # large, so that the second step sees other open positions


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network():
    """Two conv-norm-ReLU pairs, mean over positions, 10 features, 4 classes."""
    torch.manual_seed(0)
    parts = OrderedDict(
        conv1=nn.Conv2d(1, 5, 3), norm1=nn.BatchNorm2d(5), relu1=nn.ReLU(),
        conv2=nn.Conv2d(5, 10, 3), norm2=nn.BatchNorm2d(10), relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(10, 4),
    )  # fmt: skip
    nn.init.uniform_(parts["norm1"].bias, 0, 0.3)
    nn.init.normal_(parts["conv2"].weight, 0, 0.3)
    net = nn.Sequential(parts).double().eval()
    h = net[:4](X).detach()  # few open positions behind norm2, so that a step opens some of the others
    net.norm2.running_mean.copy_(h.mean((0, 2, 3)) + 1.5 * h.std((0, 2, 3)))
    return net


CUTS = (2, 5)  # the head of split j is all up to and with the norm layer, the remainder starts at its ReLU


def along(net, x, quantity, *, cut, steps, eta):
    """Gradient of quantity(remainder's output) at z_1, ..., z_T of one split, and the steps that follow them."""
    head, remain = net[:cut], net[cut:]
    z = head(x).detach()
    target = remain(z).argmax(1)
    found = []
    for _ in range(steps):
        z = z.clone().requires_grad_()
        g = grad(quantity(remain, z).sum(), z)[0]
        step = eta * grad(cross_entropy(remain(z), target, reduction="sum"), z)[0].sign()
        found.append((g, step))
        z = (z + step).detach()
    return found


def by_hand(net, x, quantity, **options):
    """Summed gradient of quantity(remainder's output) at z_1, ..., z_T of one split."""
    return sum(g for g, _ in along(net, x, quantity, **options))


def max_logit(remain, z):
    return remain(z).amax(1)


def loss(remain, z):
    return -remain(z).log_softmax(1).amax(1)  # to the predicted class, which no small step changes here


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_si_z_as_in_the_plain_version(steps):
    net = network()
    found = [by_hand(net, X, max_logit, cut=cut, steps=steps, eta=ETA) for cut in CUTS]
    density = torch.cat([(g != 0).double().mean((2, 3)) for g in found], dim=1)
    detector = SIZ(Classifier(net), steps=steps, step_size=ETA)
    torch.testing.assert_close(detector.latent(X), density, rtol=0, atol=1e-12)
    torch.testing.assert_close(detector(X), density.square().mean(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_si_a_as_in_the_plain_version(steps):
    net = network()
    kept = net.fc.weight.sum(0).argsort(descending=True)[:7]  # int(0.75 * 10)
    features = lambda remain, z: remain[:-1](z)[:, kept].sum(1)
    inner = [by_hand(net, X, features, cut=cut, steps=steps, eta=ETA).mean((2, 3)).abs() for cut in CUTS]
    log_softmax = lambda remain, z: remain(z).log_softmax(1).sum(1)
    outer = by_hand(net, X, log_softmax, cut=len(net) - 1, steps=steps, eta=ETA)  # split at the features
    omega = outer.abs().mean(1, keepdim=True).sqrt()
    wanted = torch.cat(inner, dim=1) / omega
    detector = SIA(Classifier(net), layers=["norm1", "norm2"], steps=steps, step_size=ETA, keep=0.75)
    torch.testing.assert_close(detector.latent(X), wanted, rtol=1e-9, atol=0)
    torch.testing.assert_close(detector(X), wanted.square().mean(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("delta_weighted", [False, True])
def test_si_z_counted_per_step_as_in_the_plain_version(steps, delta_weighted):
    net = network()
    density = []
    for cut in CUTS:
        path = along(net, X, loss if delta_weighted else max_logit, cut=cut, steps=steps, eta=ETA)
        density.append(sum((g != 0).double().mean((2, 3)) for g, _ in path) / steps)
    options = {"steps": steps, "step_size": ETA, "delta_weighted": delta_weighted}
    detector = SIZ(Classifier(net), count="per_step", **options)
    torch.testing.assert_close(detector.latent(X), torch.cat(density, dim=1), rtol=0, atol=1e-12)
    summed = SIZ(Classifier(net), **options)
    assert (summed(X) >= detector(X) - 1e-12).all()  # a position that counts once counts for all steps
    assert ((summed(X) > detector(X) + 1e-6).any()) == (steps > 1)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_attributions_of_equation_10_as_in_the_plain_version(steps):
    net, options = network(), {"steps": steps, "eta": ETA}
    wanted = [sum(step * g for g, step in along(net, X, loss, cut=cut, **options)) for cut in CUTS]
    path = SignPath(steps, ETA, delta_weighted=True)
    _, found = sign_steps(Classifier(net), X, ["norm1", "norm2"], None, path)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert (a >= 0).all()  # eta |g|
    density = torch.cat([(a != 0).double().mean((2, 3)) for a in wanted], dim=1)
    detector = SIZ(Classifier(net), steps=steps, step_size=ETA, delta_weighted=True)
    torch.testing.assert_close(detector.latent(X), density, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_si_a_weighted_by_its_steps_as_in_the_plain_version(steps):
    net, options = network(), {"steps": steps, "eta": ETA}
    features = lambda remain, z: remain[:-1](z).sum(1)
    log_softmax = lambda remain, z: remain(z).log_softmax(1).sum(1)
    weighted = lambda quantity, cut: sum(step * g for g, step in along(net, X, quantity, cut=cut, **options))
    inner = [weighted(features, cut).mean((2, 3)).abs() for cut in CUTS]
    omega = weighted(log_softmax, len(net) - 1).abs().mean(1, keepdim=True).sqrt()
    settings = {"layers": ["norm1", "norm2"], "steps": steps, "step_size": ETA, "keep": 1.0}
    detector = SIA(Classifier(net), **settings, delta_weighted=True)
    torch.testing.assert_close(detector.latent(X), torch.cat(inner, dim=1) / omega, rtol=1e-9, atol=0)
    assert not torch.allclose(detector(X), SIA(Classifier(net), **settings)(X))


def two_positions(dtype=torch.float64, scale=1.0):
    """z = x - 0.5 at two positions, ReLU, logits (scale * (z_1 + z_2), 0)."""
    norm, fc = nn.BatchNorm2d(1, affine=False, eps=0.0), nn.Linear(2, 2, bias=False)
    norm.running_mean.fill_(0.5)
    fc.weight.data = torch.tensor([[scale, scale], [0.0, 0.0]])
    return Classifier(nn.Sequential(OrderedDict(norm=norm, relu=nn.ReLU(), flat=nn.Flatten(), fc=fc)).to(dtype).eval())


SHUTS = torch.tensor([1.0, 0.5005], dtype=torch.float64).view(1, 1, 1, 2)  # z = (0.5, 0.0005)


def test_a_position_that_a_step_shuts_counts_half():
    # the loss falls with both: z_2 = (0.499, -0.0005). Open at z_1: both, at z_2: one. Sum: (1 + 1) / 2, per step:
    # (2 / 2 + 1 / 2) / 2 = 3/4; scores are squares
    net = two_positions()
    for delta_weighted in (False, True):
        found = [SIZ(net, count=count, delta_weighted=delta_weighted)(SHUTS).item() for count in ("sum", "per_step")]
        assert found == pytest.approx([1, 9 / 16])


def test_attributions_by_hand():
    # L = log(1 + e^-s), s = z_1 + z_2 (open ones): dL/dz = -1 / (1 + e^s) =: -r. s = 0.5005, then 0.499 with one open;
    # both steps are -0.001. A = 0.001 (r(0.5005) + r(0.499), r(0.5005))
    r = lambda s: 1 / (1 + exp(s))
    _, (found,) = sign_steps(two_positions(), SHUTS, ["norm"], None, SignPath(2, 1e-3, delta_weighted=True))
    assert found.flatten().tolist() == pytest.approx([1e-3 * (r(0.5005) + r(0.499)), 1e-3 * r(0.5005)])


def test_si_a_weighted_by_its_steps_by_hand():
    # inner: d(sum of features)/dz is 1 where open, all steps are -0.001: (-0.002, -0.001), mean 0.0015.
    # outer: d(s - 2 log(1 + e^s))/df = 1 - 2 / (1 + e^-s) = -tanh(s / 2) for both features, at s = 0.5005 and, both
    # features 0.001 smaller, 0.4985: omega^2 = 0.001 (tanh(0.25025) + tanh(0.24925)); score = 0.0015^2 / omega^2
    detector = SIA(two_positions(), layers=["norm"], keep=1.0, delta_weighted=True)
    assert detector(SHUTS).item() == pytest.approx(0.00225 / (tanh(0.25025) + tanh(0.24925)))


def test_attributions_vanish_with_the_loss():
    # logits 400 apart: the softmax is 1 and 0 to the last bit, so the loss has no gradient, and the max logit has one
    net, x = two_positions(torch.float32, scale=500.0), torch.full((1, 1, 1, 2), 0.9)
    assert SIZ(net)(x).item() == 1 and SIZ(net, delta_weighted=True)(x).item() == 0


def test_the_steps_matter():
    # without this the comparisons above could agree on what one step gives; a sum of gradients is zero where all are
    one, two, three = (SIZ(Classifier(network()), steps=t, step_size=ETA).latent(X) for t in (1, 2, 3))
    assert (two >= one).all() and (two > one).any()
    assert (three >= two).all() and (three > two).any()


def test_one_step_is_gaia_exactly():
    net = Classifier(network())
    assert torch.equal(SIZ(net, steps=1)(X), GaiaZ(net)(X))
    assert torch.equal(SIZ(net, steps=1).latent(X), GaiaZ(net).latent(X))
    assert torch.equal(SIA(net, steps=1, keep=1.0)(X), GaiaA(net)(X))
    assert torch.equal(SIA(net, steps=1, keep=1.0).latent(X), GaiaA(net).latent(X))


def test_a_skip_is_held_at_its_clean_value():
    # y = relu(norm(x)) + 10 x, logits (y, 0): the gradient at the norm's output is 1 where it is open and knows nothing
    # of the skip, and moving z by eta changes y by eta and not by 11 eta
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(1, 2, bias=False)
            self.head.weight.data = torch.tensor([[1.0], [0.0]])

        def forward(self, x):
            return self.head((torch.relu(self.norm(x)) + 10 * x).mean((2, 3)))

    net = Classifier(Skip().double().eval())
    x = torch.tensor([0.5, -0.25], dtype=torch.float64).view(2, 1, 1, 1)
    clean = net.run(x, watch=["norm"])
    moved = net.run(x, replace={"norm": clean.outputs["norm"] + 1})
    torch.testing.assert_close(moved.logits[0, 0], clean.logits[0, 0] + 1)
    assert SIZ(net).latent(x).flatten().tolist() == [1, 0]


def test_impossible_parameters_are_refused():
    net = Classifier(network())
    for build in (SIZ, SIA):
        with pytest.raises(ValueError, match=r"`steps` must be >= 1, got 0"):
            build(net, steps=0)
        for step_size in (0.0, float("nan")):
            with pytest.raises(ValueError, match=f"`step_size` must be > 0, got {step_size}"):
                build(net, step_size=step_size)
    with pytest.raises(ValueError, match=r"`count` must be one of sum, per_step, got 'each'"):
        SIZ(net, count="each")
    for keep in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"`keep` must be in \(0, 1\], got"):
            SIA(net, keep=keep)
