"""The folded copy: the same function, used inside a search and nowhere else."""

import pytest
import torch
import torchvision
from torch import nn

from oodattack.classifier import Classifier
from oodattack.classifier.copies import agree, searching
from oodattack.classifier.folding import fold
from oodattack.detectors import ODIN, Energy, Mahalanobis
from oodattack.detectors.mahalanobis import Gaussians
from oodattack.models.small import SmallResNet


def lively(network: nn.Module) -> nn.Module:
    """Norm layers that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for t, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                t.data.copy_(low + torch.rand(t.shape, generator=generator))
    return network.eval()


def networks():
    torch.manual_seed(0)
    return {
        "small": (lively(SmallResNet(3, 4)), 32),
        "resnet18": (lively(torchvision.models.resnet18(num_classes=4)), 32),
        "plain": (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval(), 8),
    }


class Branching(nn.Module):
    """Control flow that depends on values: cannot be traced."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        return self.linear(x.flatten(1)) * (2 if x.mean() > 0.5 else 1)


@pytest.mark.parametrize("name", networks())
def test_a_folded_network_is_the_same_function_without_norms(name):
    network, size = networks()[name]
    x = torch.rand(3, 3, size, size)
    folded = fold(network)
    assert folded is not None
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels_last", [True, False])
def test_layout_of_the_weights(channels_last):
    folded = fold(networks()["small"][0], channels_last=channels_last)
    weights = [m.weight for m in folded.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert weights and all(w.is_contiguous() != channels_last for w in weights)


def test_the_copy_is_used_in_reduced_precision_too():
    net, x = Classifier(networks()["small"][0]), torch.rand(4, 3, 32, 32)
    with searching(object()), torch.autocast("cpu", dtype=torch.bfloat16):
        assert (net.logits(x) != net(x)).any()
    copy = net._copies.folded
    assert not any(isinstance(m, nn.BatchNorm2d) for m in copy.modules())


def in_bfloat16(net, x):
    """Logits and features of a search in reduced precision."""
    with searching(object()), torch.autocast("cpu", dtype=torch.bfloat16):
        return net.logits(x), net.features(x)


def test_weights_are_rounded_once_and_as_autocast_rounds_them():
    net, x = Classifier(networks()["small"][0]), torch.rand(4, 3, 32, 32)
    found = in_bfloat16(net, x)
    copy, lighter = net._copies.folded, net._copies.reduced
    rounded, whole = [{m.weight.dtype for m in c.modules() if hasattr(m, "weight")} for c in (lighter, copy)]
    assert rounded == {torch.bfloat16} and whole == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = copy.run(x)
    assert torch.equal(found[0], expected.logits.float()) and torch.equal(found[1], expected.features.float())
    with torch.no_grad():
        net.network.head.weight.mul_(2)
    torch.testing.assert_close(in_bfloat16(net, x)[0], net(x), rtol=0.1, atol=0.05)


def test_weights_are_rounded_in_every_pass_where_a_copy_with_rounded_ones_fails():
    network = networks()["small"][0]
    network.head = OwnWeight(32, 4).eval()
    net, x = Classifier(network, head="head"), torch.rand(2, 3, 32, 32)
    found, _ = in_bfloat16(net, x)
    torch.testing.assert_close(found, net(x), rtol=0.1, atol=0.05)


class OwnWeight(nn.Linear):
    """Needs its weights in full."""

    __module__ = "torch.nn"  # tracing leaves it whole

    def forward(self, x):
        assert self.weight.dtype == torch.float32
        return super().forward(x)


class Twice(nn.Module):
    """What goes into the ReLU is needed again, or is the input itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        h = self.conv(torch.relu(x))
        return self.head((nn.functional.relu(h) - 0.3 * h).mean((2, 3)))


def test_relus_overwrite_only_what_nobody_else_needs():
    torch.manual_seed(0)
    shared = Twice().eval()
    x = torch.rand(2, 3, 8, 8).sub(0.5).requires_grad_()
    before = x.detach().clone()
    folded = fold(shared)
    torch.testing.assert_close(folded(x), shared(x))
    assert torch.equal(x, before) and "relu_(" not in folded.code
    residual = fold(networks()["resnet18"][0])
    assert residual.code.count("relu_(") == 17  # all of them
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    whole = networks()["resnet18"][0]
    gradients = [torch.autograd.grad(net(image).square().sum(), image)[0] for net in (residual, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)


class NormFirst(nn.Module):
    """Norm layers before ReLUs, and behind what cannot take them in."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.late = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        h = self.stem(x)
        h = torch.cat([h, self.conv(nn.functional.relu(self.norm(h)))], dim=1)
        return self.head(torch.relu(self.late(h)).mean((2, 3)))


def test_relus_overwrite_what_norm_layers_put_out():
    torch.manual_seed(0)
    network = lively(NormFirst())
    folded, x = fold(network), torch.rand(2, 3, 8, 8, requires_grad=True)
    assert folded.code.count("relu_(") == 2
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 2
    gradients = [torch.autograd.grad(net(x).square().sum(), x)[0] for net in (folded, network)]
    torch.testing.assert_close(*gradients)


def test_it_is_used_inside_a_search_only():
    network, _ = networks()["small"]
    net, x = Classifier(network, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]), torch.rand(2, 3, 32, 32)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    outside = net.logits(x), net.features(x)
    assert len(calls) == 2
    with searching("one search"):
        net.logits(x)  # builds and checks the copy, once
        before = len(calls)
        inside = net.logits(x), net.features(x)
        assert len(calls) == before
        net.run(x, watch=net.norm_layers())  # what looks at layers sees the network itself
        net(x)
        assert len(calls) == before + 2
    for a, b in zip(outside, inside, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    net.logits(x)
    assert len(calls) == before + 3
    assert not any("folded" in key or "copy" in key for key in net.state_dict())


class Signed(nn.Module):
    """A network with an attribute that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.inner, self.sign = networks()["small"][0], 1.0
        self.eval()

    def forward(self, x):
        return self.sign * self.inner(x)


@pytest.mark.parametrize("change", ["weights", "attribute"])
def test_a_changed_network_makes_a_new_copy(change):
    net, x = Classifier(Signed(), head="inner.head"), torch.rand(2, 3, 32, 32)
    with searching(object()):
        first = net.logits(x)
    with torch.no_grad():
        if change == "weights":
            net.network.inner.head.bias += 1
        else:
            net.network.sign = -1.0
    with searching(object()):
        expected = first + 1 if change == "weights" else -first
        torch.testing.assert_close(net.logits(x), expected, rtol=1e-4, atol=1e-4)


class OwnLinear(nn.Linear):
    """A head that tracing looks into instead of calling."""

    def forward(self, x):
        return x @ self.weight.T + self.bias


def test_a_head_that_tracing_dissolves_leaves_the_network_as_it_is():
    network = networks()["small"][0]
    head = OwnLinear(32, 4).eval()
    network.head = head
    net, x = Classifier(network, head="head"), torch.rand(2, 3, 32, 32)
    with searching(object()):
        assert torch.equal(net.features(x), net.run(x).features)


@pytest.mark.parametrize("network", [Branching().eval(), Branching()], ids=["untraceable", "training"])
def test_what_cannot_be_folded_is_used_as_it_is(network):
    assert fold(network) is None
    net, x = Classifier(network), torch.rand(2, 3, 2, 2)
    with searching(object()):
        assert torch.equal(net.logits(x), net(x))


def test_a_copy_that_disagrees_is_not_used(monkeypatch):
    net, x = Classifier(networks()["small"][0]), torch.rand(2, 3, 32, 32)
    monkeypatch.setattr("oodattack.classifier.copies.fold", lambda network, **_: SmallResNet(3, 4).eval())
    with searching(object()):
        assert torch.equal(net.logits(x), net(x))
    assert not agree(torch.zeros(2), torch.ones(2)) and agree(torch.ones(2), torch.ones(2))


def test_gradients_of_detectors_point_the_same_way():
    net = Classifier(networks()["small"][0])
    gaussians = Gaussians(torch.zeros(2, 32), torch.eye(32))
    x = torch.rand(4, 3, 32, 32)
    for detector in (Energy(net), ODIN(net), Mahalanobis(net, gaussians)):
        found = []
        for context in (searching(object()), torch.enable_grad()):
            z = x.clone().requires_grad_()
            with context:
                value = detector(z)
            found.append(torch.autograd.grad(value.sum(), z)[0])
        cosine = torch.nn.functional.cosine_similarity(found[0].flatten(1), found[1].flatten(1))
        assert cosine.min() > 0.999


def test_the_copy_on_a_cpu_is_laid_out_channels_last():
    net = Classifier(networks()["small"][0])
    with searching(object()):
        net.logits(torch.rand(2, 3, 32, 32))
    copy = net._copies.folded
    weights = [m.weight for m in copy.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert weights and not any(w.is_contiguous() for w in weights)
