"""Images that two sets have in common: what a test set shares with training or validation is no test."""

import hashlib
from collections.abc import Mapping
from itertools import combinations

from torch import Tensor, uint8

from oodattack.data.disk import blocks

SIZE = 16  # bytes of a digest


def overlap(a: Tensor, b: Tensor) -> int:
    """How many different images, rounded to 8 bits, are in both `a` and `b`.

    Args:
        a: shape (N, C, H, W), values in [0, 1].
        b: shape (M, C', H', W'), values in [0, 1]. Images of another shape are other images.

    Returns:
        0..min(N, M); copies within a set count once.
    """
    return len(digests(a) & digests(b))


def overlaps(sets: Mapping[str, Tensor | set[bytes]]) -> list[tuple[str, str, int]]:
    """Every pair of sets that have images in common, and how many; see `overlap`.

    Args:
        sets: name -> images, shape (N, C, H, W), values in [0, 1], or their digests.

    Returns:
        (first name, second name, images > 0), in the order of `sets`.
    """
    found = {name: digests(x) if isinstance(x, Tensor) else x for name, x in sets.items()}
    pairs = [(a, b, len(found[a] & found[b])) for a, b in combinations(found, 2)]
    return [pair for pair in pairs if pair[2]]


def digests(x: Tensor) -> set[bytes]:
    """128-bit BLAKE2b digests of the images, shape and values at 8 bits."""
    shape = str(tuple(x.shape[1:])).encode()
    found = set()
    for block in blocks(x):
        short = (block.detach() * 255).round().to(uint8).cpu().contiguous().numpy()
        found |= {hashlib.blake2b(row.tobytes(), digest_size=SIZE, key=shape[:64]).digest() for row in short}
    return found
