"""Patches of two photographs, a Chinese temple and a flower, that scikit-learn ships (CC BY; see its README there)."""

import math

import torch
from torch import Generator, Tensor, nn

from oodattack.data.rows import Rows, draw_rows, uniform
from oodattack.data.tones import as_channels

SIDES = (64, 384)  # smallest and largest patch, in pixels of the 427 x 640 photographs
TRIES = 3


def photos(n: Rows, *, channels: int, size: int, seed: int) -> Tensor:
    """Square patches of log-uniform side in 64..384, shrunk to `size`; even rows temple, odd rows flower.

    Of three random patches a row keeps the one with the largest standard deviation: plain sky shows nothing.

    Args:
        n: number of patches, >= 1, or which rows.
        channels: 1 for luminance, 3 for RGB.
        size: pixels a side.
        seed: row r depends on (seed, r) only.

    Returns:
        Shape (n, channels, size, size), values in [0, 1]. Patches overlap: there are two photographs.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image).permute(2, 0, 1) / 255 for image in load_sample_images().images]

    def one(row: int, generator: Generator) -> Tensor:
        patches = [patch(photographs[row % 2], size, generator) for _ in range(TRIES)]
        return max(patches, key=lambda p: p.std().item())

    return as_channels(draw_rows(n, "photos", seed, one), channels)


def patch(photograph: Tensor, size: int, generator: Generator) -> Tensor:
    """A random square of `photograph` (3, H, W), resized with antialiasing to (3, size, size)."""
    side = round(math.exp(uniform(math.log(SIDES[0]), math.log(SIDES[1]), generator)))
    top, left = (int(uniform(0, edge - side + 1, generator)) for edge in photograph.shape[1:])
    square = photograph[None, :, top : top + side, left : left + side]
    return nn.functional.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
