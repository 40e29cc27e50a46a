"""The thin ResNets for CIFAR-10: ResNet-20, -32, -44, -56, -110.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2, with
shortcuts of option A (section 4.1), which have no weights.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from oodattack.models.he_start import he_start


class ZeroPad(nn.Module):
    """Every second pixel, zero channels on both sides: option A, section 4.1.

    Args:
        channels: to add on each side, half of what the block adds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + 2 channels, H / 2, W / 2), rounded up."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))


class OptionABlock(nn.Module):
    """relu(F(x) + shortcut(x)) with F = conv, norm, relu, conv, norm; eq. (1) where the shape stays.

    Args:
        channels: of the input.
        out: channels of the output: the same, or twice as many at half the resolution.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=1 if out == channels else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity() if out == channels else ZeroPad((out - channels) // 2)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W), or (B, out, H / 2, W / 2) rounded up; >= 0."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class OptionAResNet(nn.Module):
    """Stem, three stages with 16, 32, 64 channels, global average pool, linear head.

    Names of modules are those of the public checkpoints: conv1, bn1, layer1 to layer3, linear.

    Args:
        channels: of the images.
        classes: number of logits.
        depth: 6 n + 2 for n blocks a stage, >= 8.

    Raises:
        ValueError: a depth of another form.

    Differs from the paper: the zeros are put on both sides of the channels, as in those checkpoints.
    """

    def __init__(self, channels: int, classes: int, *, depth: int) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"`depth` must be 6 n + 2 with n >= 1, got {depth}. Take 20, 32, 44, 56 or 110.")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(16, 16, blocks)
        self.layer2 = stage(16, 32, blocks)
        self.layer3 = stage(32, 64, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of normalised images (B, channels, H, W), H and W >= 1."""
        h = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.linear(self.pool(h).flatten(1))
        return logits


def stage(channels: int, out: int, blocks: int) -> nn.Sequential:
    """`blocks` residual blocks; the first changes the channels."""
    return nn.Sequential(OptionABlock(channels, out), *[OptionABlock(out, out) for _ in range(blocks - 1)])
