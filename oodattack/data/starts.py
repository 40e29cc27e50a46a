"""Start images of attacks: pictures that nobody takes for the training data."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.data.checkerboards import checkerboard
from oodattack.data.disk import Room, copied, pieces
from oodattack.data.noise import noise
from oodattack.data.pictures import picture
from oodattack.data.spirals import spiral
from oodattack.data.tones import check_format
from oodattack.lookup import unknown

# name -> picture (channels, size); one for all rows, as in Liang et al. 2020, arXiv:2009.08016
START_PICTURES: dict[str, Callable[[int, int], Tensor]] = {
    "colour-spiral": lambda channels, size: spiral(channels, size, colour=True),
    "grey-spiral": lambda channels, size: spiral(channels, size, colour=False),
    "checkerboard-2": lambda channels, size: checkerboard(channels, size, cells=2),
    "checkerboard-8": lambda channels, size: checkerboard(channels, size, cells=8),
}


def start_images(kind: str, n: int, *, channels: int, size: int, seed: int, room: Room = torch.empty_like) -> Tensor:
    """Images to start an attack from.

    Args:
        kind: "noise" (fresh for every row), a name of `START_PICTURES`, or `picture:PATH` (one for all rows).
        n: number of rows, >= 1.
        channels: 1 or 3.
        size: pixels a side, >= 8.
        seed: fixes the noise; the pictures do not depend on it.
        room: where to put them.

    Returns:
        Shape (n, channels, size, size), values in [0, 1]; rows have memory of their own.

    Raises:
        ValueError: an unknown kind, n < 1, an impossible format, or an unreadable picture.
    """
    check_format(channels, size)
    if n < 1:
        raise ValueError(f"`n` must be >= 1, got {n}. Ask for at least one image.")
    if kind == "noise":
        fresh = room(torch.empty(()).expand(n, channels, size, size))
        for rows in pieces(n):
            fresh[rows] = noise(range(rows.start, rows.stop), channels=channels, size=size, seed=seed)
        return fresh
    if kind.startswith("picture:"):
        x = picture(kind.removeprefix("picture:"), channels=channels, size=size)
    elif kind in START_PICTURES:
        x = START_PICTURES[kind](channels, size)
    else:
        raise unknown("kind", kind, ["noise", *START_PICTURES, "picture:PATH"])
    return copied(x.expand(n, -1, -1, -1), room)
