"""Three published CIFAR-10 networks, written out so that their weight files load without anybody's code.

ResNet-20 and ResNet-32: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2, with
shortcuts of option A (every second pixel, zero channels around). DenseNet-BC-100 with growth 12: Huang et al.,
"Densely Connected Convolutional Networks", arXiv:1608.06993. Names of modules are those of the weight files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodattack import Classifier


class Block(nn.Module):
    """Two convolutions and the option-A shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, (out - channels) // 2
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H/stride, W/stride)."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(residual + x)


class ResNet(nn.Module):
    """Stem, three stages of `blocks` blocks with 16, 32, 64 channels, average pool, linear head: depth 6 blocks + 2."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(blocks)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(blocks - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(blocks - 1)])
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of normalised images (B, 3, 32, 32)."""
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean(dim=(2, 3)))


class Bottleneck(nn.Module):
    """norm, relu, 1 x 1 to 4 growth, norm, relu, 3 x 3 to growth; its output is appended to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels + growth, H, W)."""
        new = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([x, new], dim=1)


class Dense(nn.Module):
    """A dense block; a module of its own because the weight files call its layers `layer`."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*[Bottleneck(channels + i * growth, growth) for i in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels + layers growth, H, W)."""
        return self.layer(x)


class Transition(nn.Module):
    """norm, relu, 1 x 1 to half the channels, average pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels / 2, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(nn.Module):
    """DenseNet-BC, compression 1/2: three dense blocks of (depth - 4) / 6 layers."""

    def __init__(self, depth: int = 100, growth: int = 12, classes: int = 10) -> None:
        super().__init__()
        layers, channels = (depth - 4) // 6, 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.block1 = Dense(channels, layers, growth)
        self.trans1 = Transition(channels := channels + layers * growth)
        self.block2 = Dense(channels := channels // 2, layers, growth)
        self.trans2 = Transition(channels := channels + layers * growth)
        self.block3 = Dense(channels := channels // 2, layers, growth)
        self.bn1 = nn.BatchNorm2d(channels := channels + layers * growth)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of normalised images (B, 3, 32, 32)."""
        x = self.trans2(self.block2(self.trans1(self.block1(self.conv1(x)))))
        return self.fc(F.relu(self.bn1(self.block3(x))).mean(dim=(2, 3)))


class Weights(NamedTuple):
    """How to build a network, the file with its weights, and the normalisation it was trained with, [0, 1] units."""

    build: Callable[[], nn.Module]
    file: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
NETWORKS = {
    "resnet20": Weights(lambda: ResNet(3), "cifar10_resnet20-12fca82f.th", *IMAGENET),
    "resnet32": Weights(lambda: ResNet(5), "cifar10_resnet32-d509ac18.th", *IMAGENET),
    "densenet": Weights(lambda: DenseNet(), "oecc_densenet_cifar10_densenet_OECC_tune_epoch_14.pth", *CIFAR),
}


def load(name: str, folder: Path, *, kind: type[Classifier] = Classifier) -> Classifier:
    """A network of `NETWORKS` with its weights, in eval mode, parameters left trainable.

    Args:
        name: key of `NETWORKS`.
        folder: holds the weight files, or a folder `networks` that does.
        kind: class of the result.
    """
    known = NETWORKS[name]
    path = next((p for p in (folder / known.file, folder / "networks" / known.file) if p.exists()), folder / known.file)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights)
    network = known.build()
    network.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    return kind(network.eval(), mean=known.mean, std=known.std)
