"""Outliers to train with, from families that share nothing with the OOD sets of the registry.

No photographs, no pixel noise, no spirals, no checkerboards, and of the digits only what the training set holds.
"""

import torch
from torch import Generator, Tensor, nn

from oodattack.data.images import Images
from oodattack.data.rows import draw_rows, uniform
from oodattack.data.tones import stretch

TILES = 4  # a side


def auxiliary(n: int, *, train: Images, seed: int) -> Tensor:
    """A fifth each, row by row in turn: shuffled tiles, blends, inverted images, smooth fields, strokes and blobs.

    The first three are made from training images, the last two from random numbers. Images of several channels get
    fields and strokes in colour.

    Args:
        n: number of outliers, >= 1.
        train: labelled training images, of two classes at least; H and W divisible by 4.
        seed: row r depends on (seed, r) and `train` only.

    Returns:
        Shape (n, C, H, W) of `train.x`, values in [0, 1].

    Raises:
        ValueError: labels are missing or all alike, or H or W is not divisible by 4.
    """
    x, y = train.x, train.y
    if y is None or bool((y == y[0]).all()):
        raise ValueError("`train` must have labels of two classes or more, got fewer. Blends need them.")
    if x.shape[2] % TILES or x.shape[3] % TILES:
        raise ValueError(f"`train` must have sides divisible by {TILES}, got {tuple(x.shape[2:])}. Resize first.")
    shape = tuple(x.shape[1:])

    def one(row: int, generator: Generator) -> Tensor:
        first = pick(torch.arange(len(x)), generator)
        match row % 5:
            case 0:
                return shuffle_tiles(x[first], generator)
            case 1:
                second = pick((y != y[first]).nonzero().flatten(), generator)
                return torch.lerp(x[first], x[second], uniform(0.4, 0.6, generator))
            case 2:
                return 1 - x[first]
            case 3:
                return smooth_field(shape, generator)
            case _:
                return strokes(shape, generator)

    return draw_rows(n, "auxiliary", seed, one).clamp(0, 1)  # the clamp undoes rounding


def pick(indices: Tensor, generator: Generator) -> int:
    """One of `indices`, all equally likely."""
    return int(indices[torch.randint(len(indices), (), generator=generator)])


def shuffle_tiles(x: Tensor, generator: Generator) -> Tensor:
    """Cut (C, H, W) into 4 x 4 tiles and permute them."""
    height, width = x.shape[1] // TILES, x.shape[2] // TILES
    tiles = x.unfold(1, height, height).unfold(2, width, width).flatten(1, 2)  # (C, 16, height, width)
    tiles = tiles[:, torch.randperm(TILES**2, generator=generator)]
    return torch.cat([torch.cat(row.unbind(1), dim=2) for row in tiles.chunk(TILES, dim=1)], dim=1)


def smooth_field(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Independent normals on a k x k grid, k in 4..8, enlarged bicubically to `shape` (C, H, W), then min-max."""
    k = int(torch.randint(4, 9, (), generator=generator))
    coarse = torch.randn(1, shape[0], k, k, generator=generator)
    return stretch(nn.functional.interpolate(coarse, size=shape[1:], mode="bicubic", align_corners=False)[0])


def strokes(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """The brightest, pixel by pixel, of two to five strokes: exp(-(distance to a random segment / width)^2).

    A stroke whose ends nearly meet is a blob. Widths are 4 to 12 % of the side, peaks 0.5 to 1 in each channel.

    Args:
        shape: (C, H, W).
        generator: source of ends, widths and peaks.

    Returns:
        Shape (C, H, W), values in [0, 1].
    """
    channels, height, width = shape
    count = int(torch.randint(2, 6, (), generator=generator))
    start, end = torch.rand(2, count, 1, 1, 2, generator=generator) * 0.8 + 0.1
    thickness = torch.rand(count, 1, 1, generator=generator) * 0.08 + 0.04
    peak = torch.rand(count, channels, 1, 1, generator=generator) * 0.5 + 0.5
    down, right = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    at = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1)
    along = end - start
    share = (((at - start) * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)).clamp(0, 1)
    distance = (at - start - share * along).norm(dim=-1)
    return (peak * torch.exp(-((distance / thickness) ** 2)).unsqueeze(1)).amax(0)
