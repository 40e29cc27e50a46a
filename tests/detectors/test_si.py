"""S&I against GAIA (T = 1) and against a plain version that cuts a small network by hand, no hooks (T = 2, 3)."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.autograd import grad
from torch.nn.functional import cross_entropy

from oodattack.detector import Classifier
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
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


def by_hand(net, x, quantity, *, cut, steps, eta):
    """Summed gradient of quantity(remainder's output) at z_1, ..., z_T of one split."""
    head, remain = net[:cut], net[cut:]
    z = head(x).detach()
    target = remain(z).argmax(1)
    total = torch.zeros_like(z)
    for _ in range(steps):
        z = z.clone().requires_grad_()
        total += grad(quantity(remain, z).sum(), z)[0]
        ascent = grad(cross_entropy(remain(z), target, reduction="sum"), z)[0]
        z = (z + eta * ascent.sign()).detach()
    return total


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_si_z_as_in_the_plain_version(steps):
    net = network()
    max_logit = lambda remain, z: remain(z).amax(1)
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
        with pytest.raises(ValueError, match=r"`step_size` must be > 0, got 0"):
            build(net, step_size=0.0)
    for keep in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"`keep` must be in \(0, 1\], got"):
            SIA(net, keep=keep)
