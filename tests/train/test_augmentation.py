"""Shifts, mirroring and noise: what they do to pixels, and which random numbers they take."""

import pytest
import torch

from oodattack.train import Recipe
from oodattack.train.augmentation import augmented, flipped, noisy, shifted


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shifts_move_pixels_and_nothing_else():
    x = torch.zeros(40, 1, 9, 9)
    x[:, :, 4, 4] = 1
    moved = shifted(x, 2, draw())
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = places // 9, places % 9
    assert moved.sum() == 40 and set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) > 10  # not the same for all, nor one for both


def test_a_shift_by_hand():
    # the first draw moves (rows) by top, the second (columns) by left: pixel (i, j) becomes (i - top, j - left), less 1
    x = torch.arange(1.0, 10).view(1, 1, 3, 3).repeat(1, 2, 1, 1)
    top, left = (torch.randint(3, (2, 1), generator=draw(4)) - 1).flatten().tolist()
    expected = torch.zeros(1, 2, 3, 3)
    for i in range(3):
        for j in range(3):
            if 0 <= i + top < 3 and 0 <= j + left < 3:
                expected[:, :, i, j] = x[:, :, i + top, j + left]
    assert (top, left) != (0, 0)
    assert torch.equal(shifted(x, 1, draw(4)), expected)


def test_zeros_move_in_and_images_may_be_oblong():
    moved = shifted(torch.ones(30, 3, 5, 7), 2, draw())
    assert moved.shape == (30, 3, 5, 7)
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(moved[:, 0], moved[:, 2])  # channels move together


def test_half_of_the_images_are_mirrored():
    x = torch.rand(400, 1, 4, 4, generator=draw(1))
    mirrored = flipped(x, draw())
    turned = (mirrored == x.flip(3)).flatten(1).all(1)
    stays = (mirrored == x).flatten(1).all(1)
    assert (turned | stays).all()
    assert 160 < turned.sum() < 240  # 200 +- 4 deviations of 10


def test_noise_has_the_deviation_and_is_not_clipped():
    x = torch.zeros(100, 1, 20, 20)
    difference = noisy(x, 0.03, draw())
    assert difference.std().item() == pytest.approx(0.03, rel=0.02)
    assert difference.min() < 0


def test_what_is_off_takes_no_random_numbers():
    x, generator = torch.rand(3, 1, 4, 4), draw()
    before = generator.get_state()
    recipe = Recipe(objective="ce", epochs=1, lr=0.1, shift=0)
    assert torch.equal(augmented(x, recipe, generator), x)
    assert torch.equal(noisy(x, 0.0, generator), x)
    assert torch.equal(generator.get_state(), before)
