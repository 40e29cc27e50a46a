"""Bounds of logit differences by hand, that they hold, and the loss on them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from oodattack.models import build
from oodattack.objectives import interval_exposure
from oodattack.objectives.interval_pass import IntervalPass


def test_loss_by_hand():
    u = torch.tensor([[[0.0, 2.0], [-1.0, 0.0]], [[0.0, -3.0], [4.0, 0.0]]])
    # largest entries 2 and 4: log(1 + 4/2) = log 3, log(1 + 16/2) = log 9
    assert interval_exposure(u).item() == pytest.approx((math.log(3) + math.log(9)) / 2)


@pytest.mark.parametrize("shape", [(2, 2), (0, 2, 2), (2, 2, 3), (2, 1, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"`differences` must have shape \(M, K, K\)"):
        interval_exposure(torch.zeros(shape))


def chain() -> nn.Sequential:
    """relu(x_0 - x_1), relu(x_0 + x_1 - 1) to logits (a, 2 a + b + 1)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    network[1].weight.data = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double()
    network[1].bias.data = torch.tensor([0.0, -1.0]).double()
    network[3].weight.data = torch.tensor([[1.0, 0.0], [2.0, 1.0]]).double()
    network[3].bias.data = torch.tensor([0.0, 1.0]).double()
    return network


def test_differences_by_hand():
    x = torch.tensor([0.6, 0.5]).double().view(1, 1, 1, 2)
    # x within .1: x_0 - x_1 in [-.1, .3], relu [0, .3]; x_0 + x_1 - 1 in [-.1, .3], relu [0, .3]
    # f_0 - f_1 = -a - b - 1 <= -1; f_1 - f_0 = a + b + 1 <= 1.6
    found = IntervalPass(chain()).differences(x - 0.1, x + 0.1)
    assert torch.allclose(found, torch.tensor([[[0.0, -1.0], [1.6, 0.0]]]).double())


NETWORKS = {name: (lambda name=name: build(name, channels=1, classes=3)) for name in ("plain", "small")} | {
    "tail": lambda: nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(64, 3, bias=False))
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_image_of_the_box_is_beyond(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    network(torch.rand(16, 1, 32, 32, dtype=torch.float64))  # norms see something
    network.eval()
    x = torch.rand(4, 1, 32, 32, dtype=torch.float64)
    bounds = IntervalPass(network).differences(x - 0.02, x + 0.02)
    assert torch.equal(bounds.diagonal(dim1=1, dim2=2), torch.zeros(4, 3).double())
    for _ in range(50):
        logits = network(x + 0.02 * (2 * torch.rand_like(x) - 1).sign())
        assert (logits[:, :, None] - logits[:, None] <= bounds + 1e-9).all()
    at_x = network(x)
    point = IntervalPass(network).differences(x, x)
    assert torch.allclose(point, at_x[:, :, None] - at_x[:, None])  # nothing to lose without a radius


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    network = build("plain", channels=1, classes=3)
    x = torch.rand(4, 1, 32, 32)
    interval_exposure(IntervalPass(network).differences(x - 0.05, x + 0.05)).backward()
    named = dict(network.named_parameters())
    assert all(p.grad is not None and p.grad.any() for p in named.values())


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Branching(), "must let `torch.fx` trace it"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), "must end in a linear layer"),
    ],
)
def test_networks_that_intervals_do_not_go_through(network, told):
    with pytest.raises(ValueError, match=told):
        IntervalPass(network)


def test_a_layer_without_a_rule_is_named():
    network = nn.Sequential(nn.Flatten(), nn.Sigmoid(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"got Sigmoid\. Take another network\.$"):
        IntervalPass(network)


class Around(nn.Module):
    """f of a convolution's output, and a linear layer."""

    def __init__(self, f, conv=None):
        super().__init__()
        self.f, self.head = f, nn.Linear(108, 4)
        self.conv = nn.Conv2d(1, 3, 3, padding=1) if conv is None else conv

    def forward(self, x):
        return self.head(self.f(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    "f",
    [lambda h: h.relu() + 1, lambda h: 1 + h, lambda h: torch.add(h.relu(), h, alpha=-0.5)],
    ids=["plus one", "one plus", "alpha"],
)
def test_sums_with_numbers_and_factors(f):
    torch.manual_seed(0)
    network, x = Around(f).eval(), torch.rand(3, 1, 6, 6)
    above = IntervalPass(network).differences(x - 0.1, x + 0.1)
    for _ in range(50):
        logits = network(x + 0.1 * torch.randn_like(x).sign())
        assert (logits[:, :, None] - logits[:, None] <= above + 1e-5).all()


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Around(torch.relu, nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect")), "padding_mode=reflect"),
        (Around(nn.BatchNorm2d(3, track_running_stats=False)), "track_running_stats=False"),
        (Around(lambda h: functional.interpolate(h, size=6)), "got interpolate. Take"),
    ],
)
def test_layers_with_options_that_no_rule_knows_are_refused_before_training(network, told):
    with pytest.raises(ValueError, match=told):
        IntervalPass(network)


def test_a_network_with_two_outputs_is_refused():
    class Two(Around):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(ValueError, match="must end in a linear layer"):
        IntervalPass(Two(torch.relu))
