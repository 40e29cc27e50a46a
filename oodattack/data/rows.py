"""Rows of a set: which ones are shown or measured, and one random generator for each.

So row r of a set does not depend on how many rows are drawn.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

Rows = int | Sequence[int]  # as many, from row 0 on, or these


def row_generator(seed: int, family: str, row: int) -> Generator:
    """A CPU generator that is a function of (seed, family, row) only.

    A CPU generator keeps 32 bits of its seed: among N rows about N^2 / 2^33 pairs share one.
    """
    digest = hashlib.blake2b(f"{seed},{family},{row}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def rows_of(n: Rows) -> Sequence[int]:
    """Numbers of the rows.

    Raises:
        ValueError: there are none.
    """
    rows = n if isinstance(n, Sequence) else range(n)
    if not rows:
        raise ValueError(f"`n` must be >= 1, got {n}. Ask for at least one image.")
    return rows


def evenly(n: int, most: int) -> Tensor:
    """At most so many of n rows, evenly spaced from the first to the last, so that nobody picked them."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()


def draw_rows(n: Rows, family: str, seed: int, make: Callable[[int, Generator], Tensor]) -> Tensor:
    """Stack make(r, generator of row r) for r = 0..n-1, or for these r.

    Args:
        n: number of rows, >= 1, or which.
        family: keeps the rows of one family apart from those of another.
        seed: any integer.
        make: one image, shape (C, H, W).

    Returns:
        Shape (n, C, H, W).

    Raises:
        ValueError: n < 1.
    """
    return torch.stack([make(row, row_generator(seed, family, row)) for row in rows_of(n)])


def uniform(low: float, high: float, generator: Generator) -> float:
    """One number from U[low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()
