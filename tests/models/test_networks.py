"""What every network of the table must do, and what the papers say about each."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.classifier.copies import agree
from oodattack.classifier.folding import fold
from oodattack.models import MODELS, build
from oodattack.models.cifar_resnet import CifarResNet
from oodattack.models.densenet import DenseNet
from oodattack.models.exits import ExitNet
from oodattack.models.grey_convnet import GreyConvNet
from oodattack.models.option_a_resnet import OptionAResNet
from oodattack.models.plain import PlainConvNet
from oodattack.models.small import SmallResNet
from oodattack.models.vgg import VGG13
from oodattack.models.wide_resnet import WideResNet

# the shallowest of each architecture, to compute with
SHALLOW = {
    "small": lambda: SmallResNet(1, 4, width=2),
    "plain": lambda: PlainConvNet(1, 4, width=2),
    "cifar-resnet": lambda: CifarResNet(1, 4, blocks=(1, 1, 1, 1)),
    "option-a": lambda: OptionAResNet(1, 4, depth=8),
    "wide": lambda: WideResNet(1, 4, depth=10, width=2),
    "wide, width 1": lambda: WideResNet(1, 4, depth=10, width=1),
    "densenet": lambda: DenseNet(1, 4, depth=10, growth=4),
    "vgg13": lambda: VGG13(1, 4, norm=False),
    "vgg13-bn": lambda: VGG13(1, 4, norm=True),
    "grey-convnet": lambda: GreyConvNet(1, 4),
    "exits": lambda: ExitNet(1, 4, depth=2),
}


def on_paper(name, channels=3, classes=10):
    """A network of shapes without numbers, which costs nothing."""
    with torch.device("meta"):
        return build(name, channels=channels, classes=classes)


def shallow(name):
    """A network of `SHALLOW` in eval mode, with norms that do something."""
    torch.manual_seed(0)
    net = SHALLOW[name]().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return net


def images(n=3, size=28):
    return torch.rand(n, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_shapes(name, channels):
    assert MODELS[name].name == name
    net = on_paper(name, channels, 5)
    for size in (28, 32, 64):
        assert net(torch.empty(2, channels, size, size, device="meta")).shape == (2, 5)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_the_last_linear_map_and_is_called_once(name):
    net = on_paper(name)
    head = Classifier(net).head  # the features of detectors are its input
    calls = []
    net.get_submodule(head).register_forward_hook(lambda module, args, out: calls.append((args[0], out)))
    logits = net(torch.empty(2, 3, 32, 32, device="meta"))
    assert len(calls) == 1
    assert calls[0][0].ndim == 2 and calls[0][1] is logits


@pytest.mark.parametrize("name", MODELS)
def test_relus_are_modules_called_once_and_not_in_place(name):
    net, calls = on_paper(name), []
    relus = [module for module in net.modules() if isinstance(module, nn.ReLU)]
    assert name == "grey-convnet" or relus
    assert not any(relu.inplace for relu in relus)
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    net(torch.empty(2, 3, 32, 32, device="meta"))
    assert len(calls) == len(relus) and set(calls) == set(relus)


# norm layers that GAIA and S&I listen to: the stem's, two a block, one a shortcut that changes the shape
def test_number_of_norms():
    norms = {
        name: len(Classifier(on_paper(name)).norm_layers()) for name in ("resnet34", "wrn-40-2", "densenet-100-12")
    }
    # 1 + 2 (3 + 4 + 6 + 3) + 3; 2 * 18 + 1 at the end; 2 * 48 + 2 transitions + 1 at the end
    assert norms == {"resnet34": 36, "wrn-40-2": 37, "densenet-100-12": 99}


STAGES = {
    "resnet18": ["relu", "layer1", "layer2", "layer3", "layer4"],
    "resnet20": ["relu", "layer1", "layer2", "layer3"],
    "wrn-40-2": ["stem", "block1", "block2", "block3"],
    "densenet-100-12": ["stem", "block1", "block2", "block3"],
}
SIDES = {"resnet18": [32, 32, 16, 8, 4], "resnet20": [32, 32, 16, 8]}


@pytest.mark.parametrize("name", STAGES)
def test_stages_begin_at_the_stem(name):
    net = Classifier(on_paper(name))
    assert net.stages() == STAGES[name]
    seen = net.to("meta").run(torch.empty(1, 3, 32, 32, device="meta"), watch=net.stages()).outputs
    assert [seen[stage].shape[-1] for stage in net.stages()] == SIDES.get(name, [32, 32, 16, 8])


@pytest.mark.parametrize("name", SHALLOW)
def test_rows_do_not_influence_one_another_in_eval_mode(name):
    net, x = shallow(name), images()
    together = net(x)
    assert (together[0] - together[1]).abs().max() > 1e-9  # it looks at its input
    torch.testing.assert_close(together[1:2], net(x[1:2]))


@pytest.mark.parametrize("name", SHALLOW)
def test_two_derivatives(name):
    # gradient penalties in training differentiate the gradient with respect to the input once more
    net, x = shallow(name), images(2).requires_grad_()
    grad = torch.autograd.grad(net(x)[:, 0].sum(), x, create_graph=True)[0]
    assert (grad.flatten(1).norm(dim=1) > 0).all()
    grad.square().sum().backward()
    # every weight of more than one number counts, but for what exits lay beside the last one
    silent = [n for n, p in net.named_parameters() if p.ndim > 1 and (p.grad is None or not p.grad.any())]
    assert name == "exits" or silent == []


@pytest.mark.parametrize("name", SHALLOW)
def test_folded_copies_are_the_same_network(name):
    net, x = shallow(name), images(2)
    copy = fold(net)
    assert copy is not None
    assert agree(copy(x), net(x))


# --- numbers of weights, for 10 classes of RGB images ---


def convolution(i, o, k=3):
    return k * k * i * o


def norms(*channels):
    return sum(2 * c for c in channels)


def option_a(n):
    """Section 4.2 of He et al.: stem, 2 n layers each of 16, 32, 64 channels, head."""
    stem = convolution(3, 16) + norms(16)
    first = convolution(16, 16) + convolution(16, 32) + convolution(32, 64)
    others = (2 * n - 1) * sum(convolution(c, c) for c in (16, 32, 64))
    return stem + first + others + 2 * n * norms(16, 32, 64) + 64 * 10 + 10


def deep(blocks):
    """ResNet-18 and -34 with a 3 x 3 stem: a 1 x 1 shortcut with a norm where the channels double."""
    total, i = convolution(3, 64) + norms(64), 64
    for o, n in zip((64, 128, 256, 512), blocks, strict=True):
        total += convolution(i, o) + (2 * n - 1) * convolution(o, o) + 2 * n * norms(o)
        total += convolution(i, o, 1) + norms(o) if i != o else 0
        i = o
    return total + 512 * 10 + 10


def wide(n, k):
    """Norms stand before the convolutions: the first of a stage has the channels of the stage before."""
    total, i = convolution(3, 16), 16
    for o in (16 * k, 32 * k, 64 * k):
        total += convolution(i, o) + (2 * n - 1) * convolution(o, o) + norms(i) + (2 * n - 1) * norms(o)
        total += convolution(i, o, 1) if i != o else 0
        i = o
    return total + norms(i) + i * 10 + 10


def dense(n, k):
    """A bottleneck on c channels: norm c, 1 x 1 to 4 k, norm 4 k, 3 x 3 to k; a transition: norm c, 1 x 1 to c / 2."""
    total, c = convolution(3, 2 * k), 2 * k
    for block in range(3):
        for _ in range(n):
            total += norms(c) + convolution(c, 4 * k, 1) + norms(4 * k) + convolution(4 * k, k)
            c += k
        if block < 2:
            total += norms(c) + convolution(c, c // 2, 1)
            c //= 2
    return total + norms(c) + c * 10 + 10


# name: exact number, number by the formula, millions as published, decimals printed there
COUNTS = {
    "resnet20": (269_722, option_a(3), 0.27, 2),  # He et al., Table 6
    "resnet32": (464_154, option_a(5), 0.46, 2),
    "resnet44": (658_586, option_a(7), 0.66, 2),
    "resnet56": (853_018, option_a(9), 0.85, 2),
    "resnet110": (1_727_962, option_a(18), 1.7, 1),
    "resnet18": (11_173_962, deep((2, 2, 2, 2)), None, 0),  # He et al. have it for ImageNet only
    "resnet34": (21_282_122, deep((3, 4, 6, 3)), None, 0),
    "wrn-40-2": (2_243_546, wide(6, 2), 2.2, 1),  # Zagoruyko & Komodakis, Table 4
    "wrn-40-4": (8_949_210, wide(6, 4), 8.9, 1),
    "wrn-28-10": (36_479_194, wide(4, 10), 36.5, 1),
    "madry-resnet": (466_714, wide(5, 1), None, 0),  # Learning ODIN does not print one
    "densenet-100-12": (769_162, dense(16, 12), 0.8, 1),  # Huang et al., Table 2
}


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_weights(name):
    exact, formula, published, decimals = COUNTS[name]
    assert sum(p.numel() for p in on_paper(name).parameters()) == formula == exact
    assert published is None or round(exact / 1e6, decimals) == published


@pytest.mark.parametrize("name", ["vgg13", "vgg13-bn"])
def test_number_of_weights_of_vgg13(name):
    net, widths = on_paper(name), (3, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512)
    convolutions = sum(convolution(i, o) + o for i, o in pairwise(widths))
    assert sum(p.numel() for p in net.classifier.parameters()) == 2 * (512 * 512 + 512) + 512 * 10 + 10
    total = convolutions + (norms(*widths[1:]) if name == "vgg13-bn" else 0)
    assert sum(p.numel() for p in net.features.parameters()) == total
    # Simonyan & Zisserman, Table 2: 133 million, with their head of 25088, 4096, 4096, 1000 units
    head = 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert round((convolutions + head) / 1e6) == 133


def test_number_of_weights_of_the_grey_convnet():
    # 25 * 10 + 10, 25 * 10 * 20 + 20, 320 * 50 + 50, 50 * 10 + 10
    assert sum(p.numel() for p in on_paper("grey-convnet", channels=1).parameters()) == 260 + 5020 + 16050 + 510


# --- names, so that public checkpoints load ---

KEYS = {
    "resnet20": (["conv1.weight", "bn1.running_var", "layer2.0.bn1.bias", "layer3.2.conv2.weight", "linear.bias"], 116),
    "resnet18": (["conv1.weight", "layer1.1.conv2.weight", "layer4.0.shortcut.1.weight", "linear.weight"], 122),
    "wrn-40-2": (
        ["conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.5.bn2.bias", "bn1.weight", "fc.bias"],
        227,
    ),
    "densenet-100-12": (["conv1.weight", "block1.layer.15.conv2.weight", "trans2.bn1.weight", "fc.weight"], 596),
    "vgg13": (["features.0.weight", "features.22.bias", "classifier.6.weight"], 26),
    "vgg13-bn": (["features.0.weight", "features.32.running_mean", "classifier.6.weight"], 76),
    "grey-convnet": (["conv1.weight", "conv2.bias", "fc1.weight", "fc2.bias"], 8),
}


@pytest.mark.parametrize("name", KEYS)
def test_names_are_those_of_public_checkpoints(name):
    some, number = KEYS[name]
    found = on_paper(name).state_dict()
    assert set(some) <= found.keys()
    assert len(found) == number


WRONG = {
    "option a": (lambda: OptionAResNet(3, 10, depth=21), r"`depth` must be 6 n \+ 2 with n >= 1, got 21"),
    "option a, none": (lambda: OptionAResNet(3, 10, depth=2), r"`depth` must be 6 n \+ 2 with n >= 1, got 2\."),
    "wide": (lambda: WideResNet(3, 10, depth=27, width=1), r"`depth` must be 6 n \+ 4 with n >= 1, got 27"),
    "width": (lambda: WideResNet(3, 10, depth=10, width=0), r"`width` must be >= 1 .*, got 0 and 0.0"),
    "dropout": (lambda: WideResNet(3, 10, depth=10, width=1, dropout=1.0), r"`dropout` in \[0, 1\), got 1 and 1.0"),
    "dense": (lambda: DenseNet(3, 10, depth=99, growth=12), r"`depth` must be 6 n \+ 4 with n >= 1, got 99"),
    "growth": (lambda: DenseNet(3, 10, depth=10, growth=0), "`growth` must be >= 1, got 0"),
    "vgg": (lambda: VGG13(3, 10, norm=True, dropout=-0.1), r"`dropout` must be in \[0, 1\), got -0.1"),
    "grey": (lambda: GreyConvNet(1, 10, dropout=1.5), r"`dropout` must be in \[0, 1\), got 1.5"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(make, message):
    with pytest.raises(ValueError, match=message):
        make()
