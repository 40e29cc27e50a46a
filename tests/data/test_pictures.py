import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from oodattack.data.pictures import picture

RED = (255, 0, 0)


def test_colour_and_luminance(tmp_path):
    Image.new("RGB", (40, 20), RED).save(tmp_path / "red.png")
    assert torch.equal(picture(tmp_path / "red.png", channels=3, size=8)[:, 0, 0], torch.tensor([1.0, 0, 0]))
    grey = picture(tmp_path / "red.png", channels=1, size=8)
    assert grey.shape == (1, 8, 8)
    assert grey.unique().item() == pytest.approx(0.299, abs=1 / 255)


def test_shrinking_averages(tmp_path):
    # one-pixel stripes: a filter without antialiasing would return 0 or 1
    stripes = np.tile(np.array([[0, 255]], dtype=np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    x = picture(tmp_path / "stripes.png", channels=1, size=8)
    assert ((x - 0.5).abs() < 0.1).all()


def test_rows_run_downwards(tmp_path):
    Image.fromarray(np.array([[0, 0], [255, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    x = picture(tmp_path / "a.png", channels=3, size=2)
    assert torch.equal(x, torch.tensor([[0.0, 0.0], [1.0, 1.0]]).expand(3, 2, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_not_clipped(tmp_path, channels):
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    x = picture(tmp_path / "deep.png", channels=channels, size=8)
    assert x.shape == (channels, 8, 8)
    assert x.unique().item() == pytest.approx(0x8000 / 65535)


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match=r"f\.tif` must have 8 or 16 bits, got floating point\. Save it as PNG"):
        picture(tmp_path / "f.tif", channels=1, size=8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode(tmp_path, mode, channels):
    Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(tmp_path / "a.tif")
    x = picture(str(tmp_path / "a.tif"), channels=channels, size=8)
    assert x.shape == (channels, 8, 8)
    assert x.min() > 0.99


def test_orientation_tag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.fromarray(np.array([[0] * 8] * 4 + [[255] * 8] * 4, dtype=np.uint8)).save(tmp_path / "a.png", exif=exif)
    x = picture(tmp_path / "a.png", channels=1, size=8)
    assert (x[0, 0, 0], x[0, 7, 0]) == (1, 0)


def refused(path, message):
    with pytest.raises(ValueError) as error:
        picture(path, channels=3, size=8)
    assert str(error.value).startswith(f"`picture:{path}` must ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_broken_files(tmp_path):
    refused(tmp_path / "none.png", "must name a file, got none there")
    refused(tmp_path, "must be a readable picture")
    (tmp_path / "text.png").write_text("not a picture")
    refused(tmp_path / "text.png", "must be a readable picture")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    refused(tmp_path / "half.png", "must be a readable picture")


@pytest.mark.parametrize("limit", [4000, 2500], ids=["where Pillow warns", "where Pillow refuses"])
def test_decompression_bomb(tmp_path, monkeypatch, limit):
    Image.new("L", (80, 80)).save(tmp_path / "bomb.png")  # 6400 pixels; Pillow refuses above twice the limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(tmp_path / "bomb.png", f"must have at most {limit} pixels, got more")
