"""A quarter each of the far OOD families, for one number instead of four."""

import torch
from torch import Tensor

from oodattack.data.checkerboards import checkerboards
from oodattack.data.noise import noise
from oodattack.data.photos import photos
from oodattack.data.rows import Rows, rows_of
from oodattack.data.spirals import spirals

FAMILIES = (photos, noise, spirals, checkerboards)


def far_mix(n: Rows, *, channels: int, size: int, seed: int) -> Tensor:
    """Row r is row r // 4 of family r % 4: photos, noise, spirals, checkerboards.

    Args:
        n: number of images, >= 1, or which rows.
        channels: 1 or 3.
        size: pixels a side, >= 8.
        seed: row r depends on (seed, r) only, and is the row that the family's own set has.

    Returns:
        Shape (n, channels, size, size), values in [0, 1].
    """
    turns = [divmod(row, len(FAMILIES)) for row in rows_of(n)]
    sets = {
        k: iter(FAMILIES[k]([own for own, of in turns if of == k], channels=channels, size=size, seed=seed))
        for k in {of for _, of in turns}
    }
    return torch.stack([next(sets[of]) for _, of in turns])
