"""Colour and grey spirals.

After the start image of Liang, Ma, Qian & Chen, "An Algorithm for Out-Of-Distribution Attack to Neural Network
Encoder", 2020, arXiv:2009.08016, Fig. 5. The paper gives no formula: the one below is ours.
"""

import math

import torch
from torch import Generator, Tensor

from oodattack.data.rows import Rows, draw_rows, uniform
from oodattack.data.tones import as_channels, stretch


def spiral(
    channels: int,
    size: int,
    *,
    colour: bool,
    turn: float = 0.0,
    winding: float = 2.0,
    centre: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """1/2 + 1/2 cos(2 pi h) with phase h = arms angle / (2 pi) + winding radius - turn, then min-max to [0, 1].

    The colour spiral has one arm and its phase is the hue: red, green and blue lag one another by a third of a turn.
    The grey one has two arms, so the two differ in shape when colour is reduced to luminance.

    Args:
        channels: 1 or 3.
        size: pixels a side.
        colour: hue or grey value.
        turn: rotation of the phase, in turns.
        winding: turns of the phase from the centre to the middle of an edge; negative winds the other way.
        centre: (row, column) of the eye; the picture spans [-1, 1] both ways.

    Returns:
        Shape (channels, size, size), smallest value 0 and largest 1.
    """
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    down, right = torch.meshgrid(axis - centre[0], axis - centre[1], indexing="ij")
    arms = 1 if colour else 2
    phase = arms * torch.atan2(down, right) / (2 * math.pi) + winding * torch.hypot(down, right) - turn
    lag = torch.arange(3).view(3, 1, 1) / 3 if colour else torch.zeros(3, 1, 1)
    return stretch(as_channels(0.5 + 0.5 * torch.cos(2 * math.pi * (phase - lag)), channels))


def spirals(n: Rows, *, channels: int, size: int, seed: int) -> Tensor:
    """Different spirals: even rows colour, odd rows grey.

    Each row draws its rotation, eye (within 0.4 of the middle), winding (1.2 to 2.8, either way), contrast (0.6 to 1)
    and brightness (what the contrast leaves room for).

    Args:
        n: number of images, >= 1, or which rows.
        channels: 1 or 3.
        size: pixels a side.
        seed: row r depends on (seed, r) only.

    Returns:
        Shape (n, channels, size, size), values in [0, 1].
    """

    def one(row: int, generator: Generator) -> Tensor:
        def between(low: float, high: float) -> float:
            return uniform(low, high, generator)

        centre = (between(-0.4, 0.4), between(-0.4, 0.4))
        winding = between(1.2, 2.8) * (1 if between(0, 1) < 0.5 else -1)
        x = spiral(channels, size, colour=row % 2 == 0, turn=between(0, 1), winding=winding, centre=centre)
        contrast = between(0.6, 1)
        return contrast * x + between(0, 1 - contrast)

    return draw_rows(n, "spirals", seed, one).clamp(0, 1)  # the clamp undoes rounding
