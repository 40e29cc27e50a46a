import cmath
import math

import pytest
import torch

from oodattack.data.spirals import spiral, spirals


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("colour", [True, False])
def test_spiral_spans_the_unit_interval(channels, colour):
    x = spiral(channels, 32, colour=colour)
    assert (x.min(), x.max()) == (0, 1)


def test_value_by_hand():
    # 8 pixels: centres at -7/8, -5/8, ..., 7/8. Pixel (row 4, column 7) lies at down = 1/8, right = 7/8.
    # grey: h = 2 atan2(1/8, 7/8) / 2pi + 2 sqrt(50)/8 = 0.045167 + 1.767767 = 1.812934;
    # (1 + cos(2 pi h)) / 2 = 0.692601.
    # Pixel (row 3, column 0), opposite it, is the same point of the other arm. Least and greatest of the 64 values come
    # from the formula once more, one complex number at a time.
    def value(i, j):
        z = complex((2 * j + 1) / 8 - 1, (2 * i + 1) / 8 - 1)
        return (1 + math.cos(2 * cmath.phase(z) + 2 * math.pi * 2 * abs(z))) / 2

    every = [value(i, j) for i in range(8) for j in range(8)]
    assert value(4, 7) == pytest.approx(0.692601, abs=1e-6)
    expected = (0.692601 - min(every)) / (max(every) - min(every))
    x = spiral(1, 8, colour=False)[0]
    assert x[4, 7].item() == pytest.approx(expected, abs=1e-5)
    assert x[3, 0].item() == pytest.approx(expected, abs=1e-5)


def test_grey_spiral_has_two_arms_and_the_colour_spiral_one():
    grey, colour = spiral(3, 32, colour=False), spiral(3, 32, colour=True)
    torch.testing.assert_close(grey.flip(1, 2), grey, atol=1e-5, rtol=0)
    # half a turn of one arm is half a turn of the hue: cos changes sign
    torch.testing.assert_close(colour.flip(1, 2), 1 - colour, atol=0.02, rtol=0)


def test_a_third_of_a_turn_passes_the_colours_on():
    here, there = spiral(3, 32, colour=True), spiral(3, 32, colour=True, turn=1 / 3)
    torch.testing.assert_close(there, here[[1, 2, 0]], atol=1e-5, rtol=0)


def test_rows_alternate_between_colour_and_grey():
    x = spirals(20, channels=3, size=16, seed=0)
    spread = x.std(dim=1).amax(dim=(1, 2))
    assert (spread[::2] > 0.1).all()
    assert (spread[1::2] < 1e-6).all()
