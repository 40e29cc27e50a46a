import pytest
import torch
from sklearn.datasets import load_digits

from oodattack.data.digits import digits, digits_6_9, split

# recorded: another split would end all comparisons with old reports
PINNED = [[0, 7, 8, 9], [1, 2, 3, 6], [4, 5]]
PARTS = {"train": 433, "test": 325, "reference": 325}


@pytest.mark.parametrize(("part", "size"), PARTS.items())
def test_parts_have_their_share_of_every_class(part, size):
    images = digits(part)
    assert images.x.shape == (size, 1, 32, 32)
    assert images.y.dtype == torch.int64
    counts = images.y.bincount()
    # there are 178, 182, 177, 183, 181, 182 digits of the six classes; a part is right to one image
    expected = torch.tensor([178, 182, 177, 183, 181, 182]) * (0.4 if part == "train" else 0.3)
    assert ((counts - expected).abs() < 1).all()


def test_parts_are_disjoint_and_complete():
    x = torch.cat([digits(part).x for part in PARTS]).flatten(1)
    assert len(x) == 1083
    assert len(x.unique(dim=0)) == 1083  # no picture of the source occurs twice


def test_six_to_nine():
    images = digits_6_9()
    assert len(images.x) == 714
    assert images.y.unique().tolist() == [6, 7, 8, 9]


def test_enlarging_by_hand():
    # pixel k of 32 lies at (k + 1/2) / 4 - 1/2 of 8: pixel 2 at 1/8, so 7/8 of column 0 and 1/8 of column 1;
    # pixel 0 lies before column 0 and takes its value. Of 6-9, the first is row 6 of the source.
    source = torch.tensor(load_digits().images[6]).float() / 16
    x = digits_6_9().x[0, 0]
    assert x[0, 0] == source[0, 0]
    left, right = 5, 6  # pixels 22 and 26 lie at 5 1/8 and 6 1/8
    assert x[0, 22].item() == pytest.approx((7 * source[0, left] + source[0, right]).item() / 8)
    assert x[31, 22].item() == pytest.approx((7 * source[7, left] + source[7, right]).item() / 8)
    assert x.max() > 0.9


def test_three_channels_repeat_the_grey_picture():
    grey, colour = digits("test", size=16).x, digits("test", channels=3, size=16).x
    assert colour.shape[1:] == (3, 16, 16)
    assert torch.equal(colour, grey.expand_as(colour))


def test_the_split_never_changes():
    y = torch.tensor([0, 1] * 5)
    torch.manual_seed(1)
    parts = [part.tolist() for part in split(y, [0.4, 0.3, 0.3])]
    assert parts == PINNED
    assert sorted(index for part in parts for index in part) == list(range(10))
    assert [y[part].sum().item() for part in parts] == [2, 2, 1]  # round(0.4 * 5), round(0.7 * 5) = 4, the rest


def test_unknown_part():
    with pytest.raises(ValueError, match="`part` must be one of train, test, reference, got 'val'"):
        digits("val")
