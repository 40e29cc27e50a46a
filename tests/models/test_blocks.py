"""Blocks of the architectures, computed by hand."""

import math

import pytest
import torch
from torch import nn

from oodattack.models.densenet import Bottleneck, DenseNet, Transition
from oodattack.models.grey_convnet import GreyConvNet, SigmoidGELU
from oodattack.models.he_start import he_start
from oodattack.models.option_a_resnet import OptionABlock, ZeroPad
from oodattack.models.vgg import VGG13, convolutions
from oodattack.models.wide_resnet import WideBlock, WideResNet


def passing(conv, value):
    """Make a convolution multiply by `value`: the middle pixel only, every output channel from every input channel."""
    nn.init.zeros_(conv.weight)
    conv.weight.data[..., conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = value


def one(value):
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def norms_are_exact(block):
    """Norms at rest divide by sqrt(1 + 1e-5); without the 1e-5 they are the identity."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return block.double().eval()


def test_zeros_go_on_both_sides_of_the_channels():
    x = torch.arange(9.0).view(1, 1, 3, 3)  # rows 0 1 2, 3 4 5, 6 7 8
    out = ZeroPad(2)(x)
    assert out.shape == (1, 5, 2, 2)
    assert out[0, 2].tolist() == [[0, 2], [6, 8]]  # every second pixel
    assert not out[0, [0, 1, 3, 4]].any()


def test_option_a_block_by_hand():
    # same shape: relu(2) = 2, times 3, times -0.5: -3; with the shortcut relu(-3 + 2) = 0, and of 2 with 0.25: 1.5 + 2
    block = norms_are_exact(OptionABlock(1, 1))
    passing(block.conv1, 3)
    for weight, expected in ((-0.5, 0.0), (0.25, 3.5)):
        passing(block.conv2, weight)
        assert block(one(2.0)).item() == expected
    # 2 channels become 4: the shortcut is 0, x, x, 0; the convolutions add 2 x 1 x 1 = 2 and 4 x 2 x 1 = 8
    block = norms_are_exact(OptionABlock(2, 4))
    passing(block.conv1, 1)
    passing(block.conv2, 1)
    assert block(one(1.0).expand(1, 2, 1, 1)).flatten().tolist() == [8, 9, 9, 8]


def test_wide_block_by_hand():
    # same channels: x stays as it is, and F(x) = 0.5 relu(4 relu(x)): 3 + 6, and -3 + 0
    block = norms_are_exact(WideBlock(1, 1, 1, 0.0))
    passing(block.conv1, 4)
    passing(block.conv2, 0.5)
    assert block.convShortcut is None
    assert [block(one(x)).item() for x in (3.0, -3.0)] == [9.0, -3.0]
    # other channels: the shortcut sees relu(x): 10 * 3 + 2 * 0.5 * 4 * 3, and 0 where x is negative
    block = norms_are_exact(WideBlock(1, 2, 1, 0.0))
    for conv, value in ((block.conv1, 4), (block.conv2, 0.5), (block.convShortcut, 10)):
        passing(conv, value)
    assert [block(one(x)).flatten().tolist() for x in (3.0, -3.0)] == [[42.0, 42.0], [0.0, 0.0]]


def test_dropout_stands_between_the_convolutions_while_training():
    # with zeros there, F(x) is 0 or twice as large: 3 + 0 or 3 + 12
    block = norms_are_exact(WideBlock(1, 1, 1, 0.5))
    passing(block.conv1, 4)
    passing(block.conv2, 0.5)
    assert block(one(3.0)).item() == 9.0
    block.dropout.train()
    torch.manual_seed(0)
    assert {block(one(3.0)).item() for _ in range(20)} == {3.0, 15.0}


def test_dropout_reaches_every_block():
    torch.manual_seed(0)
    net = WideResNet(1, 2, depth=16, width=1, dropout=0.3)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.3] * 6
    assert not any(isinstance(m, nn.Dropout) for m in WideResNet(1, 2, depth=16, width=1).modules())


def test_bottleneck_by_hand():
    # growth 1: 4 channels of relu(2 x), their sum times 0.5: x = 3 -> (3, 0.5 * 4 * 6); x = -3 -> (-3, 0)
    block = norms_are_exact(Bottleneck(1, 1))
    passing(block.conv1, 2)
    passing(block.conv2, 0.5)
    assert [block(one(x)).flatten().tolist() for x in (3.0, -3.0)] == [[3.0, 12.0], [-3.0, 0.0]]


def test_transition_by_hand():
    # channels (1, 2) everywhere but one pixel of -4: relu, sum 3 or 2, mean of 3, 3, 3, 2
    transition = norms_are_exact(Transition(2))
    passing(transition.conv1, 1)
    x = torch.tensor([1.0, 2.0], dtype=torch.float64).view(1, 2, 1, 1).repeat(1, 1, 2, 2)
    x[0, 0, 1, 1] = -4
    assert transition(x).flatten().tolist() == [2.75]


def test_channels_of_densenet_after_each_part():
    # growth 12: 24, + 16 * 12 = 216, half 108, + 192 = 300, half 150, + 192 = 342
    with torch.device("meta"):
        net = DenseNet(3, 10, depth=100, growth=12)
    h, seen = torch.empty(1, 3, 32, 32, device="meta"), []
    for name in ("conv1", "block1", "trans1", "block2", "trans2", "block3"):
        h = net.get_submodule(name)(h)
        seen.append((h.shape[1], h.shape[2]))
    assert seen == [(24, 32), (216, 32), (108, 16), (300, 16), (150, 8), (342, 8)]


def test_vgg_pools_after_every_pair_and_ends_in_one_pixel():
    with torch.device("meta"):
        features = convolutions(3, norm=True)
    kinds = [type(module).__name__ for module in features]
    assert kinds == [*["Conv2d", "BatchNorm2d", "ReLU"] * 2, "MaxPool2d"] * 5
    shape = {size: features(torch.empty(1, 3, size, size, device="meta")).shape[1:] for size in (28, 32, 64)}
    assert shape == {28: (512, 1, 1), 32: (512, 1, 1), 64: (512, 2, 2)}


def test_vgg_at_32_pixels_is_head_of_features():
    net = VGG13(1, 3, norm=False).eval()  # the pools that let other sizes in change nothing
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(net(x), net.classifier(net.features(x).flatten(1)))
    assert net.features(x).shape == (2, 512, 1, 1)


def test_gelu_by_hand():
    # 2 / (1 + e^-3.404), which is 1.9356; 0; the smallest value: t sigmoid(t) is -0.27846 at t = -1.27846
    x = torch.tensor([2.0, 0.0, -1.27846 / 1.702], dtype=torch.float64)
    expected = [2 / (1 + math.exp(-3.404)), 0.0, -0.27846 / 1.702]
    assert SigmoidGELU()(x).tolist() == pytest.approx(expected, abs=1e-5)


def test_grey_convnet_pools_before_its_gelus():
    # max(-1, -3) = -1 first: GELU(-1) = -0.1543; the other order would give GELU(-3) = -0.0181
    net, seen = GreyConvNet(1, 2).double().eval(), []
    nn.init.zeros_(net.conv1.weight)
    net.conv1.bias.data.fill_(-1)
    net.conv1.weight.data[:, 0, 2, 2] = -2
    net.gelu1.register_forward_hook(lambda module, args, out: seen.append(out))
    x = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    x[..., ::2] = 1  # columns of -3 and of -1
    net(x)
    expected = torch.full((1, 10, 12, 12), -1 / (1 + math.exp(1.702)), dtype=torch.float64)
    torch.testing.assert_close(seen[0], expected)


def test_start_of_the_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 50, (3, 5)), nn.Flatten(), nn.Linear(200, 100))
    he_start(net, linear_std=0.01)
    # 6000 numbers of std sqrt(2 / (15 * 50)) = 0.0516 and 20000 of 0.01: their stds are off by a few per cent at most
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / 750), rel=0.05)
    assert net[2].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not net[0].bias.any() and not net[2].bias.any()
    for std in (0, math.nan):
        with pytest.raises(ValueError, match=f"`linear_std` must be > 0, got {std}"):
            he_start(net, linear_std=std)


def test_signals_survive_ten_convolutions_without_norms():
    # torch's own start multiplies the second moment by 1/6 a layer, and what is left after ten hardly depends on x
    torch.manual_seed(0)
    x, net = torch.randn(4, 3, 32, 32), VGG13(3, 10, norm=False).features
    spread = net(x).std(dim=0).mean()
    for module in net:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    assert spread > 1e-3 > net(x).std(dim=0).mean()
