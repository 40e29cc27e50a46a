import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.data import overlap, overlaps


def images(*values, channels=1):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, channels, 2, 2) / 255


def test_by_hand():
    assert overlap(images(1.0, 2, 3), images(3.0, 4, 1)) == 2
    assert overlap(images(1.0, 2), images(3.0)) == 0


def test_values_are_rounded_to_eight_bits():
    # 0.4 / 255 above and below is the same value, 0.6 / 255 above is the next one
    assert overlap(images(10.0), images(10.4)) == 1
    assert overlap(images(10.0), images(9.6)) == 1
    assert overlap(images(10.0), images(10.6)) == 0
    assert overlap(images(0.0, 255), images(0.3, 254.7)) == 2


def test_copies_count_once():
    assert overlap(images(1.0, 1, 1), images(1.0, 1)) == 1


def test_one_pixel_is_another_image():
    a = images(5.0).clone()
    a[0, 0, 1, 1] = 6 / 255
    assert overlap(a, images(5.0)) == 0


def test_other_shapes_are_other_images():
    assert overlap(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 3, 2)) == 0
    assert overlap(images(1.0, channels=1), images(1.0, channels=3)) == 0
    assert overlap(torch.zeros(0, 1, 2, 2), images(1.0)) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 5), max_size=6))
def test_it_is_the_intersection_of_sets(a, b):
    x, y = (images(*map(float, values)) if values else torch.zeros(0, 1, 2, 2) for values in (a, b))
    assert overlap(x, y) == overlap(y, x) == len({*a} & {*b})
    assert overlap(x, x) == len({*a})


def test_pairs_of_many_sets():
    sets = {"id": images(1.0, 2, 3), "aux": images(4.0), "ood": images(3.0, 4, 2), "val": images(9.0)}
    assert overlaps(sets) == [("id", "ood", 2), ("aux", "ood", 1)]
    assert overlaps({"id": images(1.0)}) == []


def test_device_dtype_and_gradient_do_not_matter():
    x = images(7.0, 8).double().requires_grad_()
    assert overlap(x, images(7.0, 8).half()) == 2
