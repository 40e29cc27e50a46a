"""ResNet-18 and ResNet-34 for small images.

Blocks and stages of He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385,
Table 1, with the stem that is customary for CIFAR: one 3 x 3 convolution in place of 7 x 7 with stride 2 and max pool.
"""

from torch import Tensor, nn

from oodattack.models.small import BasicBlock


class CifarResNet(nn.Module):
    """Stem, four stages of `BasicBlock`s with 64, 128, 256, 512 channels, global average pool, linear head.

    Names of modules are those of the public CIFAR checkpoints: conv1, bn1, layer1 to layer4, shortcut, linear. Other
    collections call the head `fc`.

    Args:
        channels: of the images.
        classes: number of logits.
        blocks: of each stage: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) is ResNet-34.

    Differs from the paper: the stem, see above, so that 32 pixels become 4 and not 1 before the pool.
    """

    def __init__(self, channels: int, classes: int, *, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = stage(64, 64, blocks[0], 1)
        self.layer2 = stage(64, 128, blocks[1], 2)
        self.layer3 = stage(128, 256, blocks[2], 2)
        self.layer4 = stage(256, 512, blocks[3], 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of normalised images (B, channels, H, W), H and W >= 1."""
        h = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        h = self.layer4(self.layer3(h))
        logits: Tensor = self.linear(self.pool(h).flatten(1))
        return logits


def stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` residual blocks; the first changes channels and resolution."""
    first = BasicBlock(channels, out, stride)
    return nn.Sequential(first, *[BasicBlock(out, out, 1) for _ in range(blocks - 1)])
