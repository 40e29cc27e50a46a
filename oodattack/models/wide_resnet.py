"""Wide residual networks: WRN-40-2, WRN-40-4, WRN-28-10, and WRN-34-1, the thin one with Madry's depth.

Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146. Names of modules are those that the public
checkpoints of outlier exposure and of its successors have: conv1, block1.layer.0 and so on, bn1, fc.
"""

from torch import Tensor, nn

from oodattack.models.he_start import he_start


class WideBlock(nn.Module):
    """x + F(x) with F = norm, relu, conv, norm, relu, dropout, conv.

    Where the number of channels changes, a 1 x 1 convolution of relu(norm(x)) takes the place of x.

    Args:
        channels: of the input.
        out: channels of the output.
        stride: divides height and width.
        dropout: probability of a zero, in [0, 1).
    """

    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.convShortcut = None if channels == out else nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        active = self.relu1(self.bn1(x))
        residual: Tensor = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        return residual + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """`blocks` blocks in a row; a module of its own because the checkpoints call its inside `layer`."""

    def __init__(self, channels: int, out: int, blocks: int, stride: int, dropout: float) -> None:
        super().__init__()
        first = WideBlock(channels, out, stride, dropout)
        self.layer = nn.Sequential(first, *[WideBlock(out, out, 1, dropout) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        h: Tensor = self.layer(x)
        return h


class WideResNet(nn.Module):
    """Stem with 16 channels, three stages with 16 k, 32 k, 64 k, norm, relu, global average pool, linear head.

    `stem` passes on what the first convolution puts out, so that a detector can listen there by that name.

    Args:
        channels: of the images.
        classes: number of logits.
        depth: 6 n + 4 for n blocks a stage, >= 10.
        width: the factor k >= 1 (in the paper "k", in WRN-n-k the last number).
        dropout: probability of a zero between the convolutions of a block, in [0, 1).

    Raises:
        ValueError: a depth of another form, a width below 1, or a dropout outside [0, 1).

    Differs from Madry's network of depth 34 (arXiv:1706.06083): that one has leaky ReLUs and shortcuts without weights,
    and standardises every image. Learning ODIN's "MadrysResnet" is this one with depth 34 and width 1.
    """

    def __init__(self, channels: int, classes: int, *, depth: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"`depth` must be 6 n + 4 with n >= 1, got {depth}. Take 16, 22, 28, 34 or 40.")
        if width < 1 or not 0 <= dropout < 1:
            raise ValueError(f"`width` must be >= 1 and `dropout` in [0, 1), got {width} and {dropout}. Correct them.")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stem = nn.Identity()
        self.block1 = WideStage(16, 16 * width, blocks, 1, dropout)
        self.block2 = WideStage(16 * width, 32 * width, blocks, 2, dropout)
        self.block3 = WideStage(32 * width, 64 * width, blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, classes)
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of normalised images (B, channels, H, W), H and W >= 1."""
        h = self.block3(self.block2(self.block1(self.stem(self.conv1(x)))))
        logits: Tensor = self.fc(self.pool(self.relu(self.bn1(h))).flatten(1))
        return logits
