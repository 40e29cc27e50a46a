"""GAIA-Z and GAIA-A by hand, on networks whose open positions and gradients are known."""

from collections import OrderedDict
from math import tanh

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA, kept_features, output_scale
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.layer_gradients import per_channel


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def two_channels(head):
    """Channels (x - 0.5, 0.25 - x) after conv and norm, ReLU, mean over positions, linear head without bias."""
    conv, norm = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, affine=False, eps=0.0)
    conv.weight.data = double(1, -1).view(2, 1, 1, 1).float()
    norm.running_mean.copy_(double(0.5, -0.25))
    weight = double(*head)
    linear = nn.Linear(2, len(weight), bias=False)
    linear.weight.data = weight.float()
    pool = nn.AdaptiveAvgPool2d(1)
    parts = OrderedDict(conv=conv, norm=norm, relu=nn.ReLU(), pool=pool, flat=nn.Flatten(), fc=linear)
    return Classifier(nn.Sequential(parts).double().eval())


# channel 0 is open at 1.0, 0.75 and 0.6, channel 1 at 0.0
IMAGE = double([1.0, 0.75], [0.6, 0.0]).view(1, 1, 2, 2)


def test_gaia_z_by_hand():
    # densities 3/4 and 1/4, whatever the logits; score (9/16 + 1/16) / 2 = 5/16
    detector = GaiaZ(two_channels([[1.0, 2.0], [-1.0, 0.5]]))
    torch.testing.assert_close(detector.latent(IMAGE), double([0.75, 0.25]))
    torch.testing.assert_close(detector(IMAGE), double(5 / 16))


def test_gaia_z_is_of_the_largest_logit():
    # features: ((.5 + .25 + .1) / 4, .25 / 4) = (0.2125, 0.0625). The largest logit, 4 * 0.0625 = 0.25 against 0.2125,
    # does not depend on channel 0: its density is exactly 0, and the score (0 + 1/16) / 2
    detector = GaiaZ(two_channels([[1.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(detector.latent(IMAGE), double([0.0, 0.25]))
    torch.testing.assert_close(detector(IMAGE), double(1 / 32))


def test_gaia_z_of_two_layers_is_the_mean_over_all_channels():
    # a second norm (the identity, shifted by 0.3) and ReLU: open where relu(x - 0.5) > 0.3, that is at 1.0 only;
    # nothing else reaches the logit, so both layers' channel 0 have 1/4 and both channels 1 have 0: (2 / 16) / 4
    net = two_channels([[1.0, 0.0], [0.0, 0.0]])
    shifted = nn.BatchNorm2d(2, affine=False, eps=0.0).double().eval()
    shifted.running_mean.fill_(0.3)
    parts = list(net.network.named_children())
    parts[3:3] = [("norm2", shifted), ("relu2", nn.ReLU())]
    detector = GaiaZ(Classifier(nn.Sequential(OrderedDict(parts)).eval()))
    assert detector.layers == ("norm", "norm2")
    torch.testing.assert_close(detector.latent(IMAGE), double([0.25, 0, 0.25, 0]))
    torch.testing.assert_close(detector(IMAGE), double(1 / 32))


def test_gaia_a_by_hand():
    # inner: d(sum of features)/d(norm) is 1/4 at open positions, its mean over 4 positions 3/16 and 1/16.
    # logits (z0, -z0), p1 - p2 = tanh(z0): d(sum of log-softmax)/dz = sum_k W_k - 2 sum_k p_k W_k
    #   = (0 - 2 tanh(z0), 0); omega^2 = mean = tanh(z0) with z0 = 0.2125
    # score = mean((3/16)^2, (1/16)^2) / omega^2 = (10/256) / 2 / tanh(0.2125)
    detector = GaiaA(two_channels([[1.0, 0.0], [-1.0, 0.0]]))
    omega = tanh(0.2125) ** 0.5
    torch.testing.assert_close(detector.latent(IMAGE), double([3 / 16 / omega, 1 / 16 / omega]))
    torch.testing.assert_close(detector(IMAGE), double(10 / 512 / tanh(0.2125)))


def test_output_scale_by_hand():
    # sqrt((9 + 7) / 2); an exactly zero gradient does not divide by zero
    torch.testing.assert_close(output_scale(double([9, -7])), double(8**0.5).view(1, 1))
    assert (1 / output_scale(double([0, 0]))).isfinite().all()


def test_kept_features_are_those_with_the_largest_summed_weight():
    # column sums (3, -5, 1, 2): int(0.75 * 4) = 3 drops the second; the sign counts, not the size
    head = nn.Linear(4, 2)
    head.weight.data = torch.tensor([[1.0, -2.0, 1.0, 0.0], [2.0, -3.0, 0.0, 2.0]])
    net = Classifier(nn.Sequential(nn.Flatten(), head))
    assert kept_features(net, 0.75).tolist() == [1, 0, 1, 1]
    assert kept_features(net, 0.99).tolist() == [1, 0, 1, 1]
    assert kept_features(net, 1.0).tolist() == [1, 1, 1, 1]
    assert kept_features(net, 0.01).tolist() == [1, 0, 0, 0]  # never none


def test_layer_names_are_checked():
    net = two_channels([[1.0, 0.0], [-1.0, 0.0]])
    for layers in (["nonesuch"], [], ["norm", "nonesuch"]):
        with pytest.raises(ValueError, match=r"`layers` must name modules of the network"):
            GaiaZ(net, layers=layers)
    assert GaiaZ(net, layers=["relu"])(IMAGE).shape == (1,)


def test_gaia_a_refuses_a_head_that_is_not_linear():
    net = two_channels([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(
        ValueError, match=r"must have an `nn.Linear` or 1 x 1 convolution as head, got AdaptiveAvgPool2d"
    ):
        GaiaA(Classifier(net.network, head="pool"))


def test_positions_and_channels_of_every_kind_of_norm():
    class LayerNorm2d(nn.LayerNorm):
        pass  # stands for the subclasses that permute inside

    g = torch.rand(2, 6, 5, 7)
    assert per_channel(g, nn.BatchNorm2d(6)).shape == (2, 6, 35)
    assert per_channel(g, nn.LayerNorm(7)).shape == (2, 7, 30)
    assert per_channel(g, LayerNorm2d(6)).shape == (2, 6, 35)
    assert per_channel(g, LayerNorm2d(7)).shape == (2, 7, 30)
    assert per_channel(g, nn.LayerNorm([6, 5, 7])).shape == (2, 6, 35)
    assert per_channel(g[:, :, 0], nn.LayerNorm(7)).shape == (2, 7, 6)
    assert per_channel(g[:, :, 0, 0], nn.BatchNorm1d(6)).shape == (2, 6, 1)
    square = torch.arange(2 * 3 * 3 * 3.0).view(2, 3, 3, 3)  # height equals channels: the last dimension all the same
    assert torch.equal(per_channel(square, nn.LayerNorm(3)), square.movedim(-1, 1).flatten(2))
