import itertools

import torch

from oodattack.data.rows import evenly, row_generator, uniform


def test_seed_family_and_row_each_matter():
    keys = list(itertools.product((0, 1, 2**40), ("noise", "photos"), (0, 1)))
    drawn = {torch.rand(4, generator=row_generator(*key)).numpy().tobytes() for key in keys}
    assert len(drawn) == len(keys)


def test_uniform_covers_its_interval():
    generator = row_generator(0, "test", 0)
    drawn = torch.tensor([uniform(-1, 3, generator) for _ in range(1000)])
    assert -1 <= drawn.min() < -0.95
    assert 2.95 < drawn.max() < 3


def test_rows_are_evenly_spaced_from_the_first_to_the_last():
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly(3, 8).tolist() == [0, 1, 2]  # all there are
    assert evenly(5, 1).tolist() == [0] and evenly(0, 4).tolist() == []
