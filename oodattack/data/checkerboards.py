"""Checkerboards of 2 x 2 and 8 x 8 cells.

After the start images of Liang, Ma, Qian & Chen, "An Algorithm for Out-Of-Distribution Attack to Neural Network
Encoder", 2020, arXiv:2009.08016, Fig. 6.
"""

import math

import torch
from torch import Generator, Tensor

from oodattack.data.rows import Rows, draw_rows, uniform


def checkerboard(
    channels: int, size: int, *, cells: int, angle: float = 0.0, offset: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Black and white squares, `cells` along each side of the picture; black where row + column of a cell is even.

    Args:
        channels: any; all alike.
        size: pixels a side.
        cells: 1 <= cells <= size.
        angle: rotation about the middle, in radians.
        offset: shift (down, right) in cells; whole numbers swap colours or do nothing.

    Returns:
        Shape (channels, size, size), values 0 or 1.

    Raises:
        ValueError: more cells than pixels, or none.
    """
    if not 1 <= cells <= size:
        raise ValueError(f"`cells` must be in 1..{size} for {size} pixels a side, got {cells}. Enlarge the picture.")
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5  # float64: pixel centres stay off the edges
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    i = ((cos * down - sin * right + 0.5) * cells + offset[0]).floor()
    j = ((sin * down + cos * right + 0.5) * cells + offset[1]).floor()
    return ((i + j) % 2).float().repeat(channels, 1, 1)


def checkerboards(n: Rows, *, channels: int, size: int, seed: int) -> Tensor:
    """Different checkerboards: even rows 2 cells a side, odd rows 8.

    Each row draws its offset, its angle (within 15 degrees of upright), its dark level (0 to 0.2) and its light level
    (0.8 to 1).

    Args:
        n: number of images, >= 1, or which rows.
        channels: any; all alike.
        size: pixels a side, >= 8.
        seed: row r depends on (seed, r) only.

    Returns:
        Shape (n, channels, size, size), values in [0, 1].
    """

    def one(row: int, generator: Generator) -> Tensor:
        offset = (uniform(0, 2, generator), uniform(0, 2, generator))
        angle = math.radians(uniform(-15, 15, generator))
        dark, light = uniform(0, 0.2, generator), uniform(0.8, 1, generator)
        x = checkerboard(channels, size, cells=2 if row % 2 == 0 else 8, angle=angle, offset=offset)
        return dark + (light - dark) * x

    return draw_rows(n, "checkerboards", seed, one)
