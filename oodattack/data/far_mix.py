"""A quarter each of the far OOD families, for one number instead of four."""

import torch
from torch import Tensor

from oodattack.data.checkerboards import checkerboards
from oodattack.data.noise import noise
from oodattack.data.photos import photos
from oodattack.data.spirals import spirals

FAMILIES = (photos, noise, spirals, checkerboards)


def far_mix(n: int, *, channels: int, size: int, seed: int) -> Tensor:
    """Row r is row r // 4 of family r % 4: photos, noise, spirals, checkerboards.

    Args:
        n: number of images, >= 1.
        channels: 1 or 3.
        size: pixels a side, >= 8.
        seed: row r depends on (seed, r) only, and is the row that the family's own set has.

    Returns:
        Shape (n, channels, size, size), values in [0, 1].
    """
    quarter = -(-n // len(FAMILIES))
    sets = [family(quarter, channels=channels, size=size, seed=seed) for family in FAMILIES]
    return torch.stack(sets, dim=1).flatten(0, 1)[:n]
