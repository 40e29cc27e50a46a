"""GAIA and S&I on networks of four makes with norm layers: range, sign, gradient and fidelity of the surrogates."""

from collections import OrderedDict
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, relu

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA, kept_features
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.metrics import rank_correlation


class ResNet(nn.Module):
    """Stem of 3 x 3, three stages of torchvision's blocks, each of which calls its in-place ReLU twice."""

    def __init__(self, width=8, classes=6):
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)
        down = lambda c: nn.Sequential(nn.Conv2d(c, 2 * c, 1, stride=2, bias=False), nn.BatchNorm2d(2 * c))
        self.layer1 = nn.Sequential(BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2, down(width)))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2, down(2 * width)))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x):
        h = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(h.mean((2, 3)))


class WideBlock(nn.Module):
    """Pre-activation; where the shape changes, the shortcut starts behind the first ReLU."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = None if channels == out else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x):
        h = relu(self.bn1(x), inplace=True)
        skip = x if self.shortcut is None else self.shortcut(h)
        return skip + self.conv2(relu(self.bn2(self.conv1(h)), inplace=True))


class WideResNet(nn.Module):
    def __init__(self, width=8, classes=6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(WideBlock(width, 2 * width, 1), WideBlock(2 * width, 2 * width, 1))
        self.block2 = nn.Sequential(WideBlock(2 * width, 4 * width, 2), WideBlock(4 * width, 4 * width, 1))
        self.bn1, self.fc = nn.BatchNorm2d(4 * width), nn.Linear(4 * width, classes)

    def forward(self, x):
        h = relu(self.bn1(self.block2(self.block1(self.conv1(x)))))
        return self.fc(h.mean((2, 3)))


class StdConv(nn.Conv2d):
    """Weights with mean 0 and variance 1 in every filter."""

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True, correction=0) + 1e-10).sqrt()
        return conv2d(x, w / w[0].numel() ** 0.5, self.bias, self.stride, self.padding)


class BitUnit(nn.Module):
    """Pre-activation bottleneck with group norms."""

    def __init__(self, channels, out, stride=1):
        super().__init__()
        mid = out // 2
        self.gn1, self.conv1 = nn.GroupNorm(4, channels), StdConv(channels, mid, 1, bias=False)
        self.gn2, self.conv2 = nn.GroupNorm(4, mid), StdConv(mid, mid, 3, stride, 1, bias=False)
        self.gn3, self.conv3 = nn.GroupNorm(4, mid), StdConv(mid, out, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if channels == out else StdConv(channels, out, 1, stride, bias=False)

    def forward(self, x):
        h = self.relu(self.gn1(x))
        skip = x if self.downsample is None else self.downsample(h)
        h = self.conv1(h)
        h = self.conv2(self.relu(self.gn2(h)))
        return self.conv3(self.relu(self.gn3(h))) + skip


class BitNet(nn.Module):
    """Root, two blocks of units, and a head of norm, ReLU, pool and a convolution of 1 x 1."""

    def __init__(self, width=8, classes=6):
        super().__init__()
        self.root = StdConv(3, width, 3, padding=1, bias=False)
        self.body = nn.Sequential(
            OrderedDict(
                block1=nn.Sequential(BitUnit(width, 2 * width), BitUnit(2 * width, 2 * width)),
                block2=nn.Sequential(BitUnit(2 * width, 4 * width, 2), BitUnit(4 * width, 4 * width)),
            )
        )
        self.head = nn.Sequential(
            OrderedDict(
                gn=nn.GroupNorm(4, 4 * width),
                relu=nn.ReLU(inplace=True),
                avg=nn.AdaptiveAvgPool2d(1),
                conv=nn.Conv2d(4 * width, classes, 1),
            )
        )

    def forward(self, x):
        return self.head(self.body(self.root(x)))[..., 0, 0]


def dense_net():
    from torchvision.models import DenseNet

    network = DenseNet(growth_rate=6, block_config=(3, 3), num_init_features=8, num_classes=6)
    network.features.conv0, network.features.pool0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Identity()
    return network


NETWORKS = {"resnet": ResNet, "wide resnet": WideResNet, "densenet": dense_net, "bit": BitNet}
DETECTORS = {
    "gaia-z": GaiaZ,
    "gaia-a": GaiaA,
    "si-z": SIZ,
    "si-z per step": lambda net: SIZ(net, count="per_step"),
    "si-z of eq. (10)": lambda net: SIZ(net, delta_weighted=True),
    "si-a": SIA,
    "si-a of eq. (10)": lambda net: SIA(net, delta_weighted=True),
}
OF_ZEROS = ["gaia-z", "si-z", "si-z per step", "si-z of eq. (10)"]
OF_AVERAGES = ["gaia-a", "si-a", "si-a of eq. (10)"]
EVERY = pytest.mark.parametrize("network", NETWORKS)
FEW = slice(0, None, 7)  # one of each kind
BOTH = pytest.mark.parametrize("name", DETECTORS)


@cache
def images(each=6, size=16):
    """Noise, blobs, stripes, ramps, flat colours and black squares of varied strength, by turns: (6 each, 3, H, W)."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(each, 3, size, size, generator=generator)
    level = torch.linspace(0.2, 1, each).view(-1, 1, 1, 1)
    blobs = interpolate(torch.rand(each, 3, 4, 4, generator=generator), size=size, mode="bilinear")
    waves = torch.arange(1, each + 1).view(-1, 1, 1, 1) * torch.linspace(0, 12, size)
    stripes = 0.5 + 0.5 * waves.sin().expand(each, 3, size, size) * level
    ramps = (torch.linspace(0, 1, size) * level).mT.expand(each, 3, size, size)
    flat = torch.rand(each, 3, 1, 1, generator=generator).expand(each, 3, size, size)
    squares = avg_pool2d(noise, 3, 1, 1).clone()
    squares[:, :, size // 4 : -size // 4, size // 4 : -size // 4] = 0
    kinds = [noise * level, blobs, stripes, ramps, flat, squares]
    return torch.stack(kinds, dim=1).flatten(0, 1).contiguous()


@cache
def classifier(network):
    """Random weights, norms with the statistics of the images, eval mode."""
    torch.manual_seed(0)
    made = NETWORKS[network]()
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = None  # the average over all batches
    with torch.no_grad():
        made.train()(images())
    return Classifier(made.eval(), head="head.conv" if network == "bit" else None)


@cache
def scores(network, name):
    return DETECTORS[name](classifier(network))(images())


def shifted(network, kind, name, *, bias):
    """Scores of a few images with the bias of all modules of a kind replaced."""
    net, kept = classifier(network), []
    parts = [m for m in net.network.modules() if isinstance(m, kind) and m.bias is not None]
    try:
        for part in parts:
            kept.append(part.bias.data)
            part.bias.data = bias(part.bias.data)
        return DETECTORS[name](net)(images()[FEW])
    finally:
        for part, before in zip(parts, kept, strict=True):
            part.bias.data = before


@EVERY
@BOTH
def test_scores_are_in_range_and_vary(network, name):
    found = scores(network, name)
    assert found.shape == (len(images()),) and found.isfinite().all() and (found >= 0).all()
    assert (found <= 1).all() or name in OF_AVERAGES
    assert found.unique().numel() > len(found) // 2


@EVERY
@pytest.mark.parametrize("name", OF_ZEROS)
def test_more_open_positions_score_higher(network, name):
    # the bias of every norm raised by 1 opens positions on any image, lowered by 1 it shuts them
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    more, less = (shifted(network, norms, name, bias=lambda b, s=s: b + s) for s in (1, -1))
    found = scores(network, name)[FEW]
    assert (more > found).all() and (found > less).all()


@EVERY
@pytest.mark.parametrize("name", OF_AVERAGES)
def test_confidence_scores_lower(network, name):
    # only the bias of the head differs: omega grows with the distance of the softmax from uniform
    head = classifier(network).head
    kind = type(classifier(network).network.get_submodule(head))
    if kind is nn.Linear:
        sure = shifted(network, kind, name, bias=lambda b: b + torch.tensor([20.0, *[0.0] * 5]))
        unsure = shifted(network, kind, name, bias=lambda b: b + torch.tensor([0.5, *[0.0] * 5]))
    else:
        last = lambda amount: lambda b: b + amount * (torch.arange(6) == 0) if len(b) == 6 else b
        sure, unsure = (shifted(network, nn.Conv2d, name, bias=last(amount)) for amount in (20.0, 0.5))
    assert (sure < unsure).all()


@EVERY
@BOTH
def test_what_an_attack_differentiates_has_a_gradient(network, name):
    detector = DETECTORS[name](classifier(network))
    x = images()[FEW].clone().requires_grad_()
    for f in (detector.surrogate.score, detector.surrogate.latent):
        (gradient,) = torch.autograd.grad(f(x).sum(), x)
        assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()


@EVERY
@BOTH
def test_surrogates_order_images_of_many_kinds_like_the_score(network, name):
    detector = DETECTORS[name](classifier(network))
    with torch.no_grad():
        found = rank_correlation(detector.surrogate.score(images()), scores(network, name))
    assert found > 0.9  # 0.95 and more


@pytest.mark.parametrize("sign", [1, -1], ids=["raise", "hide"])
@EVERY
@pytest.mark.parametrize("name", ["si-z per step", "si-a", "si-a of eq. (10)"])  # GAIA and the others share surrogates
def test_attacks_through_the_surrogate_move_the_score(network, name, sign):
    detector, x = DETECTORS[name](classifier(network)), images()[FEW]
    moved, eps = x, 8 / 255
    for _ in range(20):
        z = moved.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        moved = (x + (moved + sign * eps / 5 * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    gain = sign * (detector(moved) / scores(network, name)[FEW]).log()
    # a flat image under group norms, which divide by next to nothing, is another image after any step
    assert gain.mean() > 0.02 and (gain > 0).float().mean() > 0.6


def test_late_layers_of_every_make():
    late = {network: classifier(network).late_norm_layers() for network in NETWORKS}
    assert all(n.startswith(("layer2.", "layer3.")) for n in late["resnet"]) and len(late["resnet"]) == 6
    assert len(late["wide resnet"]) == 8 and all(n.startswith("block") for n in late["wide resnet"])
    assert len(late["bit"]) == 12 and all(n.startswith("body.block") for n in late["bit"])
    assert all(n.startswith("features.denseblock") for n in late["densenet"]) and len(late["densenet"]) == 12


def test_a_head_of_convolutions_keeps_the_features_of_its_weights():
    net = classifier("bit")
    weight = net.network.head.conv.weight[:, :, 0, 0].sum(0)
    assert kept_features(net, 0.5).nonzero().flatten().tolist() == sorted(weight.topk(16).indices.tolist())
