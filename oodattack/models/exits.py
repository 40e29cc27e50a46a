"""A small network that classifies at several depths.

After Huang et al., "Multi-Scale Dense Networks for Resource Efficient Image Classification", ICLR 2018,
arXiv:1703.09844: features of three resolutions side by side, each layer densely connected to those before it on its own
scale and to the next finer one, and classifiers on the coarsest scale.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SCALES = 3


class MultiScaleLayer(nn.Module):
    """Appends to scales new features of their own and, but for the finest of all, of the next finer scale.

    Args:
        widths: channels of the scales, finest first.
        growths: new channels from the same scale, and as many from the finer one, on each scale.
        keep: how many of the coarsest scales go on; the others are given up.
    """

    def __init__(self, widths: list[int], growths: list[int], keep: int) -> None:
        super().__init__()
        self.first = len(widths) - keep
        kept = range(self.first, len(widths))
        self.same = nn.ModuleList(convolution(widths[s], growths[s]) for s in kept)
        self.down = nn.ModuleList(convolution(widths[s - 1], growths[s], stride=2) for s in kept if s)
        self.widths = [widths[s] + (2 if s else 1) * growths[s] for s in kept]

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        """Shapes (B, widths[s], H / 2^s, W / 2^s), rounded up -> those that are kept, with more channels."""
        fine = scales[self.first - 1 : -1] if self.first else scales[:-1]  # one finer than the kept ones
        parts = [[h, same(h)] for h, same in zip(scales[self.first :], self.same, strict=True)]
        with_finer = parts if self.first else parts[1:]
        for part, h, down in zip(with_finer, fine, self.down, strict=True):
            part.append(down(h))
        return [torch.cat(part, dim=1) for part in parts]


class ExitNet(nn.Module):
    """Stem on patches of 4 x 4 pixels, three scales, one layer and one classifier an exit. For 28 to 64 pixels a side.

    Every ReLU is a module of its own and none works in place. `exits_loss` trains all exits, and so does `oodattack
    train` with the objective ce; a loss on what `forward` returns trains the last one only.

    Args:
        channels: of the images.
        classes: number of logits of every exit.
        width: channels of the finest scale at the start; the next have twice and four times as many.
        growth: new channels a layer and source on the finest scale; on the next twice and four times as many.
        depth: number of exits, >= 1.

    Raises:
        ValueError: no exit.

    Differs from the paper: one convolution where it has two with a bottleneck, and classifiers of one linear map on
    pooled features; a scale is given up as soon as no later exit needs it.
    """

    def __init__(self, channels: int = 1, classes: int = 6, *, width: int = 8, growth: int = 4, depth: int = 5) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"`depth` must be >= 1, got {depth}. MSDNet has 5 exits for CIFAR-10.")
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 4, stride=4, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width * 2**s for s in range(SCALES)]
        self.start = nn.ModuleList(convolution(w, 2 * w, stride=2) for w in widths[:-1])
        self.layers, self.heads = nn.ModuleList(), nn.ModuleList()
        for left in range(depth, 0, -1):
            growths = [growth * 2**s for s in range(SCALES)][-len(widths) :]
            layer = MultiScaleLayer(widths, growths, min(left, SCALES))
            self.layers.append(layer)
            widths = layer.widths
            self.heads.append(nn.Linear(widths[-1], classes))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def coarsest(self, x: Tensor) -> list[Tensor]:
        """Pooled features of the coarsest scale before each exit: shapes (B, D), D growing."""
        scales = [self.stem(x)]
        for down in self.start:
            scales.append(down(scales[-1]))
        found = []
        for layer in self.layers:
            scales = layer(scales)
            found.append(self.pool(scales[-1]).flatten(1))
        return found

    def exits(self, x: Tensor) -> list[Tensor]:
        """Logits of all exits, each of shape (B, classes), of images (B, channels, H, W), normalised or not."""
        return [head(z) for head, z in zip(self.heads, self.coarsest(x), strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last exit, shape (B, classes)."""
        logits: Tensor = self.heads[-1](self.coarsest(x)[-1])
        return logits


def convolution(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, norm, ReLU."""
    layer = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


class HasExits(Protocol):
    """A network that classifies at several depths."""

    @property
    def exits(self) -> Callable[[Tensor], list[Tensor]]:
        """Images -> logits of all exits, each of shape (B, classes)."""
        ...


def exits_loss(network: HasExits, x: Tensor, y: Tensor) -> Tensor:
    """Sum over the exits of the cross-entropy, arXiv:1703.09844 with equal weights.

    Args:
        network: with `exits`.
        x: images as the network takes them, shape (B, C, H, W).
        y: labels, shape (B,).

    Returns:
        A scalar, mean over rows.
    """
    return torch.stack([cross_entropy(logits, y) for logits in network.exits(x)]).sum()
