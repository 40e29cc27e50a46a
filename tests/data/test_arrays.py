from io import BytesIO

import numpy as np
import pytest
import torch

from oodattack.data import load
from oodattack.data.arrays import to_images

RNG = np.random.default_rng(0)
GREY = RNG.random((5, 6, 7), dtype=np.float32)
COLOUR = RNG.random((5, 3, 6, 7), dtype=np.float32)
LAYOUTS = {
    "NHW": (GREY, GREY[:, None]),
    "N1HW": (GREY[:, None], GREY[:, None]),
    "NHW1": (GREY[..., None], GREY[:, None]),
    "NCHW": (COLOUR, COLOUR),
    "NHWC": (COLOUR.transpose(0, 2, 3, 1), COLOUR),
    "float64": (COLOUR.astype(np.float64), COLOUR),
    "tensor": (torch.from_numpy(COLOUR), COLOUR),
}


@pytest.mark.parametrize(("x", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(x, expected):
    found = to_images(x, None, "a").x
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(expected))
    assert found.is_contiguous()  # x.view(len(x), -1) is what detectors do


def test_a_list_of_several_sizes_is_no_array():
    with pytest.raises(ValueError, match="`a` must hold one array of images, got ValueError: setting an array element"):
        to_images([np.zeros((3, 4)), np.zeros((4, 3))], None, "a")


def test_bytes_are_divided_by_255():
    x = np.array([[[[0, 51, 255]] * 2] * 2], dtype=np.uint8)  # (1, 2, 2, 3), NHWC
    found = to_images(x.reshape(1, 2, 2, 3), None, "a").x
    # 51 / 255 = 1/5
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0, 0.2, 1]))


@pytest.mark.parametrize(
    "shape", [(4, 3, 8, 3), (4, 1, 8, 3), (4, 2, 8, 8), (8, 8, 3), (8, 8), (1, 4, 3, 8, 8), (0, 3, 8, 8)], ids=str
)
def test_shapes_that_do_not_tell_the_channels(shape):
    with pytest.raises(
        ValueError, match=r"^`a` must (have one axis of size 1 or 3|be \(N, H, W\)|hold at least one)"
    ) as error:
        to_images(np.zeros(shape, np.float32), None, "a")
    assert f"got {shape}" in str(error.value)


def broken(**arrays):
    return lambda path: np.savez(path, **arrays)


FLOATS = np.full((2, 1, 4, 4), 0.5)
FILES = {
    "missing": (lambda path: None, "must name a file, got none there"),
    "text": (lambda path: path.write_text("hello"), "must be an .npz archive, got another kind"),
    "empty file": (lambda path: path.touch(), "must be an .npz archive, got another kind"),
    "folder": (lambda path: path.mkdir(), "must be an .npz archive, got another kind"),
    "npy cut off": (lambda path: path.write_bytes(npy(FLOATS)[:-8]), "must hold plain, whole arrays, got: mmap"),
    "npy of objects": (lambda path: path.write_bytes(npy(np.array([{}]))), "must hold plain, whole arrays, got: Array"),
    "cut off": (lambda path: path.write_bytes(npz(path)[:300]), "must be an .npz archive, got another kind"),
    "flipped byte": (lambda path: path.write_bytes(flip(npz(path))), "must hold plain, whole arrays, got: Bad CRC"),
    "objects": (broken(images=np.array([{}, 1], dtype=object)), "must hold plain, whole arrays, got: Object arrays"),
    "no array": (broken(), "must hold an array `images` or a single array, got none"),
    "two arrays": (broken(a=FLOATS, b=FLOATS), "must hold an array `images` or a single array, got a, b"),
    "whole numbers": (broken(images=np.zeros((2, 4, 4), int)), "must hold uint8 or floating-point images, got int64"),
    "text array": (broken(images=np.array(["a", "b"])), "must hold uint8 or floating-point images"),
    "nan": (broken(images=np.full((1, 4, 4), np.nan)), "must be finite"),
    "range": (broken(images=FLOATS * 510), "must be in [0, 1], got [255, 255]. Divide 8-bit values by 255"),
    "no image": (broken(images=FLOATS[:0]), "must hold at least one image"),
    "one picture": (broken(images=FLOATS[0, 0]), "must be (N, H, W)"),
    "labels short": (broken(images=FLOATS, labels=np.zeros(3, int)), "must have 2 integer labels, got int64 (3,)"),
    "labels real": (broken(images=FLOATS, labels=np.zeros(2)), "must have 2 integer labels, got float64 (2,)"),
}


def npy(x):
    np.save(out := BytesIO(), x)
    return out.getvalue()


def npz(path):
    np.savez(whole := path.with_name("whole.npz"), images=FLOATS)
    return whole.read_bytes()


def flip(data):
    return data[:250] + bytes([data[250] ^ 1]) + data[251:]


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_broken_files_get_one_line_that_starts_with_the_path(write, message, tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    with pytest.raises(ValueError) as error:
        load(f"npz:{path}", seed=0)
    assert str(error.value).startswith(f"`npz:{path}` must ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_images_and_labels_are_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, other=FLOATS, images=GREY, labels=np.arange(5, dtype=np.uint8))
    images = load(f"npz:{path}", seed=0)
    assert images.name == f"npz:{path}"
    assert torch.equal(images.x[:, 0], torch.from_numpy(GREY))
    assert images.y.dtype == torch.int64
    assert images.y.tolist() == [0, 1, 2, 3, 4]


def test_a_single_array_needs_no_name(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", GREY)
    images = load(f"npz:{tmp_path / 'a.npz'}", seed=0)
    assert torch.equal(images.x[:, 0], torch.from_numpy(GREY))
    assert images.y is None


def test_an_npy_file_is_an_array_without_labels(tmp_path):
    np.save(path := tmp_path / "a.npy", GREY)
    images = load(f"npz:{path}", samples=3, seed=0)
    assert images.x.shape == (3, 1, 6, 7)
    assert torch.isin(images.x, torch.from_numpy(GREY)).all()
    assert images.y is None
    with pytest.raises(ValueError, match=r"must be an \.npz archive, got another kind"):
        load(f"npz:{path}#images", seed=0)
