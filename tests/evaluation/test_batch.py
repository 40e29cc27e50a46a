"""Blocks of rows, and what happens when one does not fit in memory."""

import pytest
import torch

from oodattack.evaluation.batch import Batch, automatic, in_blocks, power_of_two, values, with_room


def test_blocks_cover_all_rows_once_in_order():
    batch = Batch(4)
    assert in_blocks(10, batch, lambda rows: (rows.start, rows.stop)) == [(0, 4), (4, 8), (8, 10)]
    assert in_blocks(0, batch, lambda rows: rows) == []
    assert batch.size == 4


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("... can't allocate memory: ...")]
)
def test_a_block_that_does_not_fit_is_done_again_in_halves(error):
    batch, tried = Batch(8), []

    def work(rows: slice) -> range:
        tried.append(rows.stop - rows.start)
        if tried[-1] > 3:
            raise error
        return range(rows.start, rows.stop)

    parts = in_blocks(10, batch, work)
    assert [row for part in parts for row in part] == list(range(10))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert batch.size == 2  # and stays there for what follows


def test_one_row_that_does_not_fit_is_the_users_to_solve():
    def work(_rows: slice) -> None:
        raise torch.OutOfMemoryError("x")

    with pytest.raises(ValueError, match="one image must fit in memory"):
        in_blocks(3, Batch(2), work)


def test_as_many_rows_as_fit():
    batch, tried = Batch(12), []

    def work(rows: int) -> str:
        tried.append(rows)
        if rows > 3:
            raise MemoryError
        return "done"

    assert with_room(8, batch, work) == "done"
    assert tried == [8, 4, 2] and batch.size == 2
    assert with_room(1, batch, work) == "done" and tried[-1] == 1
    with pytest.raises(ValueError, match="one image must fit in memory"):
        with_room(8, batch, lambda rows: work(4))
    with pytest.raises(IndexError):
        with_room(8, batch, lambda rows: tried[99])


def test_other_errors_are_not_taken_for_memory():
    def work(_rows: slice) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_blocks(3, Batch(2), work)


def test_automatic_size_on_the_cpu_depends_on_the_image_alone():
    score = lambda x: x.flatten(1).sum(1)
    assert automatic(score, torch.zeros(3, 3, 32, 32)).size == 256
    assert automatic(score, torch.zeros(3, 3, 224, 224)).size == 4  # 256 * 32^2 / 224^2 = 5.2
    assert automatic(score, torch.zeros(3, 1, 8, 8)).size == 256
    assert automatic(score, torch.zeros(1, 3, 1024, 1024)).size == 1


@pytest.mark.parametrize(("most", "power"), [(0.3, 1), (1, 1), (5.9, 4), (8, 8), (1000, 512)])
def test_power_of_two(most, power):
    assert power_of_two(most) == power


@pytest.mark.parametrize("size", [1, 2, 5])
def test_values_of_all_rows_without_a_gradient(size):
    x = torch.rand(5, 1, 2, 2, requires_grad=True)
    sizes = []
    out = values(lambda rows: (sizes.append(len(rows)), rows.flatten(1).sum(1))[1], x, Batch(size))
    assert torch.equal(out, x.detach().flatten(1).sum(1))
    assert not out.requires_grad
    assert max(sizes) <= size


def test_values_survive_a_full_memory():
    def fits_four(rows):
        if len(rows) > 4:
            raise torch.OutOfMemoryError("x")
        return rows.flatten(1).sum(1)

    assert values(fits_four, torch.ones(40, 1, 2, 2), Batch(40)).tolist() == [4.0] * 40
