"""A few tiny images, and a network that takes random numbers of its own."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from oodattack.train import RECIPES, HeldOut, Recipe, TrainingSet, adversaries


class Tiny(nn.Module):
    """Convolution, norm, dropout, head; one network for all images of 8 x 8 and more."""

    def __init__(self, classes: int = 3, channels: int = 1, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        h = nn.functional.adaptive_avg_pool2d(self.body(x), 2)
        return self.head(self.drop(h.flatten(1)))


@pytest.fixture(autouse=True)
def small_gan(monkeypatch):
    """The confident classifier's GAN with an eighth of its channels: it takes most of the time."""
    monkeypatch.setattr(adversaries, "WIDTH", 8)


@pytest.fixture
def data() -> TrainingSet:
    """22 ID images of three classes that can be told apart, 30 outliers."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(22) % 3
    x = 0.3 * torch.rand(22, 1, 8, 8, generator=draw)
    x[torch.arange(22), 0, 2 * y] += 0.6
    return TrainingSet(x, y, torch.rand(30, 1, 8, 8, generator=draw))


@pytest.fixture
def held_out(data) -> HeldOut:
    draw = torch.Generator().manual_seed(1)
    return HeldOut((data.x + 0.1 * torch.rand(data.x.shape, generator=draw)).clamp(0, 1), data.y)


@pytest.fixture
def tiny():
    """recipe or number of outputs -> network, the same weights at each call."""

    def make(outputs: int | Recipe = 3, **options) -> nn.Module:
        torch.manual_seed(5)
        return Tiny(3 + outputs.extra_classes if isinstance(outputs, Recipe) else outputs, **options)

    return make


@pytest.fixture
def brief():
    """The recipe of an objective cut short: two epochs, three steps each on `data`."""

    def make(name: str, **changes) -> Recipe:
        fields = {"start": None, "epochs": 2, "batch_size": 8, "shift": 1, "chain": 3, "buffer": 12} | changes
        return replace(RECIPES[name], **fields)

    return make


@pytest.fixture
def flat():
    """Network -> all parameters as one vector."""
    return lambda network: torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.fixture
def same():
    """Whether two networks have the same parameters and buffers, bit for bit."""

    def compare(a: nn.Module, b: nn.Module) -> bool:
        one, other = a.state_dict(), b.state_dict()
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    return compare
