"""Random small networks with every kind of step, and points of a ball to try bounds on."""

import torch
from torch import nn

import oodattack as oa
from oodattack.geometry import nearest_allowed
from oodattack.models.option_a_resnet import OptionABlock
from oodattack.models.small import BasicBlock

DOUBLE = torch.float64
IMAGE = (2, 6, 6)
CLASSES = 4


class Branches(nn.Module):
    """Functions instead of modules: slices, padding, concatenation, sums with numbers, a mean, a leaky ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        h = nn.functional.leaky_relu(self.conv(x), 0.1)
        wide = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        pooled = nn.functional.avg_pool2d(h, 2)
        both = torch.cat([torch.relu(2 * pooled - 0.3), wide], dim=1) / 2
        return self.head((both - (-both)).mean((2, 3)).view(x.size(0), -1))


def body(kind):
    """Layers up to the features, and how many there are."""
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
    flat = nn.Flatten()
    return {
        "plain": ([conv, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.LeakyReLU(0.2), flat], 36),
        "norms": ([conv, nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.AvgPool2d(3), flat], 4),
        "basic": ([conv, nn.ReLU(), BasicBlock(4, 6, 2), nn.AdaptiveAvgPool2d(1), flat], 6),
        "option-a": ([conv, nn.ReLU(), OptionABlock(4, 8), OptionABlock(8, 8), nn.AdaptiveAvgPool2d(1), flat], 8),
        "max": ([nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU(), flat], 12),
        "max-ceil": ([conv, nn.MaxPool2d(2, ceil_mode=True), flat, nn.Linear(16, 5), nn.ReLU()], 5),
    }[kind]


KINDS = ("plain", "norms", "basic", "option-a", "max", "max-ceil", "branches")


def random_net(kind, seed, *, gain=1.5):
    """A classifier in float64 and eval mode, with norms that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "branches":
            network = Branches()
        else:
            layers, width = body(kind)
            network = nn.Sequential(*layers, nn.Linear(width, CLASSES))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.weight, std=1.0)
                nn.init.normal_(module.bias, std=0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data *= gain
    return oa.Classifier(network.double().eval(), mean=[0.4, 0.5], std=[0.5, 0.25]).double()


def images(n, seed, shape=IMAGE):
    """Images of which some pixels are at the walls of the box."""
    draw = torch.Generator().manual_seed(seed)
    return (1.4 * torch.rand(n, *shape, generator=draw, dtype=DOUBLE) - 0.2).clamp(0, 1)


def points(x, norm, eps, count, seed):
    """`count` allowed inputs for every row: corners and insides of the ball, cut with the box; (count, N, ...)."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        delta = torch.randn(x.shape, generator=draw, dtype=DOUBLE)
        if i % 2:
            delta = delta.sign()
        size = delta.abs().flatten(1).amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
        scale = (1.0 if i % 3 else 0.5) * eps / size
        found.append(nearest_allowed(x + delta * scale.view(-1, 1, 1, 1), x, eps, norm))
    return torch.stack(found)
