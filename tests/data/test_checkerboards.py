import math

import pytest
import torch

from oodattack.data.checkerboards import checkerboard, checkerboards

TWO = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]).float()


def test_two_cells_a_side_by_hand():
    assert torch.equal(checkerboard(3, 4, cells=2), TWO.repeat(3, 1, 1))


def test_one_cell_a_pixel():
    i, j = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(checkerboard(1, 8, cells=8)[0], ((i + j) % 2).float())


def test_a_shift_by_one_cell_swaps_the_colours():
    for offset in ((1, 0), (0, 1)):
        assert torch.equal(checkerboard(1, 4, cells=2, offset=offset)[0], 1 - TWO)
    assert torch.equal(checkerboard(1, 4, cells=2, offset=(1, 1))[0], TWO)


def test_a_quarter_turn_swaps_the_colours():
    assert torch.equal(checkerboard(1, 32, cells=8, angle=math.pi / 2), 1 - checkerboard(1, 32, cells=8))


@pytest.mark.parametrize("cells", [0, 5])
def test_cells_need_a_pixel_each(cells):
    with pytest.raises(ValueError, match=rf"`cells` must be in 1..4 for 4 pixels a side, got {cells}"):
        checkerboard(1, 4, cells=cells)


def test_rows_have_two_grey_levels_and_alternate_in_fineness():
    x = checkerboards(20, channels=1, size=32, seed=0)
    assert all(len(row.unique()) == 2 for row in x)
    edges = (x.diff(dim=3).abs() > 0).float().mean(dim=(1, 2, 3))
    assert edges[::2].max() < 0.15 < edges[1::2].min()  # about 2 of 31 steps, and 8 of 31
