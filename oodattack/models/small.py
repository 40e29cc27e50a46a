"""The small residual network that the embedded defaults are trained with.

Blocks after He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, with
1 x 1 convolutions on the shortcuts that change shape (option B of section 4.1). The stem sees patches of 4 x 4 pixels.
"""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(F(x) + shortcut(x)) with F = conv, norm, relu, conv, norm; eq. (2) of He et al. 2016.

    Args:
        channels: of the input.
        out: channels of the output.
        stride: divides height and width.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H/stride, W/stride), rounded up, >= 0."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class SmallResNet(nn.Module):
    """Stem, three residual stages of one block each, global average pool, linear head.

    Every ReLU is a module of its own and none works in place, so that detectors may listen to any of them.

    Args:
        channels: of the images.
        classes: number of logits.
        width: channels of the first stage; the next have twice and four times as many.
    """

    def __init__(self, channels: int = 1, classes: int = 6, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 4, stride=4, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = BasicBlock(width, width, 1)
        self.layer2 = BasicBlock(width, 2 * width, 2)
        self.layer3 = BasicBlock(2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of images (B, channels, H, W), normalised or not."""
        features = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits
