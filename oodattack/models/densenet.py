"""DenseNet-BC for small images.

Huang, Liu, van der Maaten & Weinberger, "Densely Connected Convolutional Networks", CVPR 2017, arXiv:1608.06993,
section 3. Names of modules are those of the public checkpoints: conv1, block1.layer.0 and so on, trans1, bn1, fc.
"""

import torch
from torch import Tensor, nn

from oodattack.models.he_start import he_start


class Bottleneck(nn.Module):
    """norm, relu, 1 x 1 to 4 growth, norm, relu, 3 x 3 to growth; its output is appended to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels + growth, H, W)."""
        new: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))
        return torch.cat([x, new], dim=1)


class Dense(nn.Module):
    """`layers` bottlenecks in a row; a module of its own because the checkpoints call its inside `layer`."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*[Bottleneck(channels + i * growth, growth) for i in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels + layers growth, H, W)."""
        h: Tensor = self.layer(x)
        return h


class Transition(nn.Module):
    """norm, relu, 1 x 1 to half the channels, 2 x 2 average pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels / 2, H / 2, W / 2), all rounded down."""
        h: Tensor = self.pool(self.conv1(self.relu(self.bn1(x))))
        return h


class DenseNet(nn.Module):
    """Stem with 2 growth channels, three dense blocks with halving transitions between, norm, relu, pool, linear head.

    `stem` passes on what the first convolution puts out, so that a detector can listen there by that name.

    Args:
        channels: of the images.
        classes: number of logits.
        depth: 6 n + 4 for n bottlenecks a block, >= 10.
        growth: channels that a bottleneck adds, k >= 1 in the paper.

    Raises:
        ValueError: a depth of another form, or a growth below 1.
    """

    def __init__(self, channels: int, classes: int, *, depth: int, growth: int) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"`depth` must be 6 n + 4 with n >= 1, got {depth}. Take 100, as the paper does.")
        if growth < 1:
            raise ValueError(f"`growth` must be >= 1, got {growth}. Take 12, as the paper does.")
        layers, width = (depth - 4) // 6, 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem = nn.Identity()
        self.block1 = Dense(width, layers, growth)
        self.trans1 = Transition(width := width + layers * growth)
        self.block2 = Dense(width := width // 2, layers, growth)
        self.trans2 = Transition(width := width + layers * growth)
        self.block3 = Dense(width := width // 2, layers, growth)
        self.bn1 = nn.BatchNorm2d(width := width + layers * growth)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of normalised images (B, channels, H, W), H and W >= 4."""
        h = self.trans2(self.block2(self.trans1(self.block1(self.stem(self.conv1(x))))))
        logits: Tensor = self.fc(self.pool(self.relu(self.bn1(self.block3(h)))).flatten(1))
        return logits
