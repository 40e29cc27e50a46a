"""Uniform noise, the start image that paper after paper begins from, and Gaussian noise."""

import torch
from torch import Generator, Tensor

from oodattack.data.rows import Rows, draw_rows


def noise(n: Rows, *, channels: int, size: int, seed: int) -> Tensor:
    """Every pixel of every row from U[0, 1), independently.

    Args:
        n: number of images, >= 1, or which rows.
        channels: any.
        size: pixels a side.
        seed: row r depends on (seed, r) only.

    Returns:
        Shape (n, channels, size, size), values in [0, 1).
    """
    return draw_rows(n, "noise", seed, lambda _row, generator: torch.rand(channels, size, size, generator=generator))


def gaussian_noise(n: Rows, *, channels: int, size: int, seed: int) -> Tensor:
    """Every pixel of every row from N(1/2, 1), independently, then cut to [0, 1].

    Source: the Gaussian OOD set of Liang, Li & Srikant, "Enhancing The Reliability of Out-of-distribution Image
    Detection in Neural Networks", 2018, arXiv:1706.02690. About 31 % of the values are 0 and 31 % are 1.

    Args:
        n: number of images, >= 1, or which rows.
        channels: any.
        size: pixels a side.
        seed: row r depends on (seed, r) only.

    Returns:
        Shape (n, channels, size, size), values in [0, 1].
    """

    def one(_row: int, generator: Generator) -> Tensor:
        return (0.5 + torch.randn(channels, size, size, generator=generator)).clamp(0, 1)

    return draw_rows(n, "gaussian-noise", seed, one)
