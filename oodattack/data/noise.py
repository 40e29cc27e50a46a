"""Uniform noise, the start image that paper after paper begins from."""

import torch
from torch import Tensor

from oodattack.data.rows import draw_rows


def noise(n: int, *, channels: int, size: int, seed: int) -> Tensor:
    """Every pixel of every row from U[0, 1), independently.

    Args:
        n: number of images, >= 1.
        channels: any.
        size: pixels a side.
        seed: row r depends on (seed, r) only.

    Returns:
        Shape (n, channels, size, size), values in [0, 1).
    """
    return draw_rows(n, "noise", seed, lambda _row, generator: torch.rand(channels, size, size, generator=generator))
