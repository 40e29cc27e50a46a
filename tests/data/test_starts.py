import pytest
import torch
from PIL import Image

from oodattack.data.starts import START_PICTURES, start_images


@pytest.mark.parametrize("kind", ["noise", *START_PICTURES])
@pytest.mark.parametrize("channels", [1, 3])
def test_format(kind, channels):
    x = start_images(kind, 3, channels=channels, size=16, seed=0)
    assert x.shape == (3, channels, 16, 16)
    assert ((x >= 0) & (x <= 1)).all()


@pytest.mark.parametrize("kind", START_PICTURES)
def test_pictures_are_shared_by_all_rows_and_seeds(kind):
    x, again = (start_images(kind, 3, channels=1, size=16, seed=seed) for seed in (0, 1))
    assert torch.equal(x, x[:1].expand_as(x))
    assert torch.equal(x, again)
    x[0] = 0  # rows have memory of their own
    assert x[1].max() == 1


def test_pictures_differ():
    x = torch.cat([start_images(kind, 1, channels=1, size=16, seed=0) for kind in START_PICTURES]).flatten(1)
    assert torch.cdist(x, x).fill_diagonal_(torch.inf).min() > 1


def test_noise_is_fresh_in_every_row():
    x = start_images("noise", 3, channels=1, size=16, seed=0)
    assert not torch.equal(x[0], x[1])
    assert torch.equal(x[:2], start_images("noise", 2, channels=1, size=16, seed=0))
    assert not torch.equal(x, start_images("noise", 3, channels=1, size=16, seed=1))


def test_picture_from_disk(tmp_path):
    Image.new("L", (10, 10), 51).save(tmp_path / "a.png")
    x = start_images(f"picture:{tmp_path / 'a.png'}", 2, channels=3, size=16, seed=0)
    assert torch.equal(x, torch.full((2, 3, 16, 16), 0.2))


def test_errors():
    with pytest.raises(
        ValueError, match=r"Did you mean 'colour-spiral'\? `kind` must be one of noise, .*got 'color-spiral'\."
    ):
        start_images("color-spiral", 1, channels=3, size=16, seed=0)
    with pytest.raises(ValueError, match=r"`picture:nowhere\.png` must name a file"):
        start_images("picture:nowhere.png", 1, channels=3, size=16, seed=0)
    with pytest.raises(ValueError, match=r"`channels` must be 1 \(grey\) or 3 \(RGB\), got 2"):
        start_images("noise", 1, channels=2, size=16, seed=0)
    with pytest.raises(ValueError, match="`size` must be >= 8, got 7"):
        start_images("checkerboard-8", 1, channels=1, size=7, seed=0)
    with pytest.raises(ValueError, match="`n` must be >= 1, got 0"):
        start_images("grey-spiral", 0, channels=1, size=8, seed=0)
