"""Single parts: spectral norms, linear functions on a ball, and what a network may be made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import DOUBLE, points
from torch import nn

import oodattack as oa
from oodattack import models
from oodattack.bounds.affine import block_norms, rearranging
from oodattack.bounds.ball import Ball, Interval, around, least, least_change, spread
from oodattack.bounds.layers import LAYERS
from oodattack.bounds.network import network
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.trace import trace


def dense(does, shape):
    """The matrix of a step, (out, in)."""
    size = torch.Size(shape).numel()
    return does.exact.forward(torch.eye(size, dtype=DOUBLE).view(size, *shape)).flatten(1).mT


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 4, "stride": 4},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": (3, 1), "stride": (1, 2), "padding": (0, 1)},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_the_norm_of_a_convolution_is_bounded_closely_from_above(options):
    torch.manual_seed(0)
    module, shape = nn.Conv2d(4, 6, **options).double(), (4, 9, 8)
    does = LAYERS[nn.Conv2d](module, shape)
    exact = torch.linalg.matrix_norm(dense(does, shape), ord=2).item()
    (bound,) = does.norms()
    assert exact <= bound <= 1.35 * exact
    assert exact <= block_norms(does)[0] * (1 + 1e-9)  # the general bound holds as well


def test_a_convolution_of_patches_has_its_exact_norm():
    torch.manual_seed(0)
    module = nn.Conv2d(2, 5, 4, stride=4).double()
    (bound,) = LAYERS[nn.Conv2d](module, (2, 8, 8)).norms()
    assert bound == pytest.approx(torch.linalg.matrix_norm(module.weight.flatten(1), ord=2).item(), rel=1e-6)


def test_averages_and_sums_have_their_exact_norms():
    mean = rearranging(nn.AvgPool2d(2), [(3, 4, 4)])
    assert block_norms(mean) == [pytest.approx(1 / 2)]  # four entries of 1/4: sqrt(4 / 16)
    total = rearranging(lambda a, b: torch.cat([a, b], dim=1), [(2, 3, 3), (1, 3, 3)])
    assert block_norms(total) == [1.0, 1.0]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_transposed_map_is_the_transpose(options):
    torch.manual_seed(0)
    for channels, shape in ((4, (4, 9, 8)), (8, (8, 24, 24))):  # with its matrix written out, and without
        module = nn.Conv2d(channels, 6, **options).double()
        does = LAYERS[nn.Conv2d](module, shape)
        z = torch.randn(2, *shape, dtype=DOUBLE)
        h = module(z)
        torch.testing.assert_close(does.point(z), h)
        a = torch.randn_like(h)
        (back,) = does.exact.backward(a)
        forth = does.exact.forward(z)
        torch.testing.assert_close((a * forth).sum(), (back * z).sum())
        (back,) = does.size.backward(a.abs())
        assert (a.abs() * forth.abs()).sum() <= (back * z.abs()).sum() + 1e-9


def exact_least(a, x, eps, low, high):
    """min <a, d> over ||d||_2 <= eps in a box, by bisection on the multiplier of the ball."""
    small, large = 1e-9, 1e9
    for _ in range(200):
        m = (small * large) ** 0.5
        d = (-a / m).clamp(low - x, high - x)
        small, large = (m, large) if d.norm() > eps else (small, m)
    return (a @ (-a / large).clamp(low - x, high - x)).item()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), eps=st.floats(1e-3, 2.0))
def test_least_in_an_l2_ball_that_the_box_cuts(seed, eps):
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(1, 1, 12, generator=draw, dtype=DOUBLE)
    x = (2 * torch.rand(1, 1, 3, 4, generator=draw, dtype=DOUBLE) - 0.5).clamp(0, 1)
    ball = Ball(x, torch.tensor([eps], dtype=DOUBLE), "l2", 0.0, 1.0)
    change = (least(ball, a, closely=True) - (a[0, 0] @ x.flatten())).item()
    exact = exact_least(a[0, 0], x.flatten(), eps, 0.0, 1.0)
    assert change <= exact + 1e-9
    assert change >= 1.1 * exact - 1e-9  # and close to it
    assert (least(ball, a, closely=False) <= least(ball, a, closely=True) + 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_least_change_over_intervals_of_slopes(norm):
    draw = torch.Generator().manual_seed(1)
    x = (1.4 * torch.rand(2, 1, 3, 4, generator=draw, dtype=DOUBLE) - 0.2).clamp(0, 1)
    low = torch.randn(2, 3, 12, generator=draw, dtype=DOUBLE)
    high = low + torch.rand(2, 3, 12, generator=draw, dtype=DOUBLE)
    ball = Ball(x, torch.tensor([0.1, 0.4], dtype=DOUBLE), norm, 0.0, 1.0)
    found = least_change(ball, Interval(low, high))
    for i, eps in enumerate((0.1, 0.4)):
        delta = (points(x[i : i + 1], norm, eps, 100, 2) - x[i]).flatten(1)
        slopes = low[i] + (high - low)[i] * torch.rand(100, 3, 12, generator=draw, dtype=DOUBLE)
        assert ((slopes * delta[:, None]).sum(2) >= found[i] - 1e-12).all()


def test_a_linf_ball_is_as_long_as_the_box_lets_it():
    x = torch.tensor([[[[0.0, 0.5, 1.0, 0.5]]]], dtype=DOUBLE)
    ball = Ball(x, torch.tensor([0.75], dtype=DOUBLE), "linf", 0.0, 1.0)
    # steps of at most .75, .5, .75, .5
    assert spread(ball, "l2").item() == pytest.approx((2 * 0.75**2 + 2 * 0.5**2) ** 0.5)
    assert around(ball).upper.flatten().tolist() == [0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["small", "resnet20", "vgg13", "wrn-40-2"])
def test_networks_of_the_papers_have_steps(name):
    """`trace` itself compares what the steps compute with the network."""
    built = models.build(name, channels=3, classes=5).double().eval()
    graph = trace(oa.Classifier(built, mean=[0.5] * 3, std=[0.2] * 3).double(), (3, 32, 32))
    assert graph.shape(graph.logits) == (5,)


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x.flatten(1)) if x.sum() > 0 else self.head(-x.flatten(1))


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x.flatten(1) - x.flatten(1).mean(0, keepdim=True))


class Gated(Mixing):
    def forward(self, x):
        return self.head(x.flatten(1)) * (torch.max(x.flatten(1), 1)[0].amin() > 0.5)


class Averaging(Mixing):
    def forward(self, x):
        return self.head(nn.functional.avg_pool2d(x, 1, divisor_override=-4).flatten(1))


class Squared(Mixing):
    def forward(self, x):
        return self.head(x.flatten(1) * x.flatten(1))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (nn.Sequential(nn.GELU(), nn.Flatten(), nn.Linear(4, 3)), "got '0', GELU: no bounds are known for it"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same"), nn.Flatten(), nn.Linear(4, 3)), "got '0', Conv2d: it pads"),
        (
            nn.Sequential(nn.LeakyReLU(-1.0), nn.Flatten(), nn.Linear(4, 3)),
            "LeakyReLU: its slope is -1 and not in 0..1",
        ),
        (Deciding(), "must let `torch.fx` trace it, got"),
        (Mixing(), r"got mean \(mean\): it mixes the images of a batch"),
        (Gated(), r"got max \(max_1\): it puts out several tensors"),
        (Averaging(), r"got avg_pool2d \(avg_pool2d\): its divisor is -4 and not positive"),
        (
            nn.Sequential(nn.AvgPool2d(1, divisor_override=-4), nn.Flatten(), nn.Linear(4, 3)),
            "got '0', AvgPool2d: its divisor is -4",
        ),
        (Squared(), r"got mul \(mul\): it is no product with a number"),
    ],
)
def test_what_has_no_bounds_is_named(layers, words):
    with pytest.raises(NoBounds, match=words):
        network(oa.Classifier(layers.double().eval()).double(), (1, 2, 2), deep=True)


class Shared(nn.Module):
    """One convolution with two norms, and a pool whose size is a tuple of one number."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.one.running_mean.fill_(0.3)
        self.two.running_var.fill_(4.0)
        self.pool, self.head = nn.MaxPool2d((2,)), nn.Linear(1, 3)

    def forward(self, x):
        return self.head(self.pool(self.one(self.conv(x)) + self.two(self.conv(x))).flatten(1))


def test_layers_that_are_called_twice_have_steps():
    """`trace` itself compares what the steps compute with the network."""
    graph = trace(oa.Classifier(Shared().double().eval()).double(), (1, 2, 2))
    assert graph.shape(graph.logits) == (3,)
