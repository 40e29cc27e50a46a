import pytest
import torch

from oodattack.data.auxiliary import auxiliary, shuffle_tiles, smooth_field, strokes
from oodattack.data.digits import digits
from oodattack.data.images import Images


def flat(values, labels, shape=(1, 8, 8)):
    x = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, *shape)
    return Images("flat", x, None if labels is None else torch.tensor(labels), "test")


def test_families_by_hand_on_flat_images():
    # class 0 is 0.2 all over, class 1 is 0.8: tiles keep the value, blends lie in 0.2 + 0.6 * (0.4..0.6),
    # inversion swaps 0.2 and 0.8
    x = auxiliary(50, train=flat([0.2, 0.8], [0, 1]), seed=0)
    value = x.flatten(1).double()
    for k in (0, 1, 2):
        assert (value[k::5].std(dim=1) < 1e-6).all()
    two = torch.tensor([0.2, 0.8], dtype=torch.float64)
    for k in (0, 2):
        assert torch.allclose(value[k::5, 0].sort().values.unique_consecutive()[[0, -1]], two, atol=1e-6)
    assert ((value[1::5] > 0.439) & (value[1::5] < 0.561)).all()
    for k in (3, 4):
        assert (value[k::5].std(dim=1) > 0.01).all()


def test_blends_never_pair_a_class_with_itself():
    x = auxiliary(200, train=flat([0.2, 0.3, 0.8], [0, 0, 1]), seed=0)[1::5]
    # within a class a blend would lie in 0.2..0.3; across it is at least 0.6 * 0.3 + 0.4 * 0.8 or 0.6 * 0.2 + 0.4 * 0.8
    assert x.min() > 0.43


def test_shuffled_tiles_are_the_same_tiles():
    x = torch.arange(2 * 8 * 12).float().view(2, 8, 12)
    cut = lambda z: {tuple(z[:, i : i + 2, j : j + 3].flatten().tolist()) for i in (0, 2, 4, 6) for j in (0, 3, 6, 9)}
    shuffled = shuffle_tiles(x, torch.Generator().manual_seed(0))
    assert shuffled.shape == x.shape
    assert not torch.equal(shuffled, x)
    assert cut(shuffled) == cut(x)


def test_fields_are_smooth_and_strokes_leave_the_ground_dark():
    generator = torch.Generator().manual_seed(0)
    fields = torch.stack([smooth_field((3, 32, 32), generator) for _ in range(20)])
    assert (fields.amin((1, 2, 3)) == 0).all()
    assert (fields.amax((1, 2, 3)) == 1).all()
    assert fields.diff(dim=3).abs().mean() < 0.1  # pixel noise would have 1/3
    drawn = torch.stack([strokes((3, 32, 32), generator) for _ in range(20)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert (drawn.amax((1, 2, 3)) > 0.4).all()
    assert (drawn < 0.1).float().mean() > 0.4


@pytest.mark.parametrize("channels", [1, 3])
def test_format_follows_the_training_images(channels):
    train = digits("train", channels=channels, size=16)
    x = auxiliary(10, train=train, seed=0)
    assert x.shape == (10, channels, 16, 16)
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal(auxiliary(4, train=train, seed=0), x[:4])
    assert not torch.equal(auxiliary(10, train=train, seed=1), x)


def test_every_outlier_is_new():
    train = digits("train")
    x = auxiliary(200, train=train, seed=0).flatten(1)
    assert torch.cdist(x, train.x.flatten(1)).min() > 1


@pytest.mark.parametrize("labels", [None, [1, 1]])
def test_labels_are_needed(labels):
    with pytest.raises(ValueError, match="`train` must have labels of two classes or more"):
        auxiliary(1, train=flat([0.2, 0.8], labels), seed=0)


def test_sides_must_fall_into_tiles():
    with pytest.raises(ValueError, match=r"`train` must have sides divisible by 4, got \(8, 6\)"):
        auxiliary(1, train=flat([0.2, 0.8], [0, 1], (1, 8, 6)), seed=0)
