"""Arrays that stay inside their archive, and the names of arrays and labels."""

import zipfile

import numpy as np
import pytest
import torch

from oodattack.data import load, mapped
from oodattack.data.mapped import map_array

X = np.random.default_rng(0).integers(0, 256, (9, 8, 10, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 0)


@pytest.mark.parametrize("x", [X, X.astype(np.float32) / 255, np.asfortranarray(X), X.astype(">f4") / 255], ids=str)
def test_a_map_has_the_values_of_the_file(x, tmp_path):
    np.savez(tmp_path / "a.npz", before=np.arange(7), images=x, after=np.arange(3.0))
    found = map_array(tmp_path / "a.npz", "images")
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, x)
    assert found.dtype == x.dtype
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_what_cannot_be_mapped(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", X)
    assert map_array(tmp_path / "a.npz", "arr_0") is None
    np.savez(tmp_path / "b.npz", np.array([{}], dtype=object))
    assert map_array(tmp_path / "b.npz", "arr_0") is None
    monkeypatch.setattr(mapped, "LARGE", 10**6)
    np.savez(tmp_path / "c.npz", X)
    assert map_array(tmp_path / "c.npz", "arr_0") is None


def test_a_shape_that_lies(tmp_path):
    np.savez(tmp_path / "a.npz", X)
    data = (tmp_path / "a.npz").read_bytes().replace(b"(9, 8, 10, 3)", b"(9, 8, 90, 3)")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"a\.npz` must hold plain, whole arrays, got: arr_0\.npy is not as long as its"
    ):
        load(f"npz:{tmp_path / 'a.npz'}", seed=0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_samples_are_cut_out_before_they_become_floats(save, tmp_path, monkeypatch):
    from oodattack.data import arrays

    save(tmp_path / "a.npz", images=X, labels=np.arange(9))
    seen, real = [], arrays.to_images
    monkeypatch.setattr(arrays, "to_images", lambda x, y, name: seen.append(len(x)) or real(x, y, name))
    images = load(f"npz:{tmp_path / 'a.npz'}", samples=4, seed=0)
    assert seen == [4]
    assert torch.equal(images.x, torch.from_numpy(X[images.y]).permute(0, 3, 1, 2) / 255)


KEYS = {
    "train_images": [0, 1, 2],
    "test_images": [5, 6, 7],
    "x_train": [3, 4, 5],
    "images": [7, 8, 9],
    "other": None,
}


@pytest.fixture
def archive(tmp_path):
    pairs = {"train_labels": [0, 1, 2], "test_labels": [5, 6, 7], "y_train": [3, 4, 5], "labels": [7, 8, 9]}
    x = {key: np.full((3, 8, 8), 10 * k, dtype=np.uint8) for k, key in enumerate(KEYS)}
    np.savez(tmp_path / "a.npz", **x, **{key: np.array(y) for key, y in pairs.items()})
    return tmp_path / "a.npz"


@pytest.mark.parametrize(("key", "labels"), KEYS.items(), ids=KEYS)
def test_an_array_by_name_and_its_labels(key, labels, archive):
    images = load(f"npz:{archive}#{key}", seed=0)
    assert images.name == f"npz:{archive}#{key}"
    assert (images.x * 255).unique().item() == 10 * [*KEYS].index(key)
    assert (images.y if labels is None else images.y.tolist()) == labels


def test_no_key_means_images_and_labels(archive):
    assert load(f"npz:{archive}", seed=0).y.tolist() == [7, 8, 9]


def test_an_unknown_key(archive):
    with pytest.raises(ValueError, match=r"a\.npz#imags` must hold an array `imags`, got train_images, .*Name another"):
        load(f"npz:{archive}#imags", seed=0)


def test_a_file_whose_name_has_the_sign_in_it(tmp_path):
    np.savez(tmp_path / "a#1.npz", X)
    assert len(load(f"npz:{tmp_path / 'a#1.npz'}", seed=0).x) == 9
    assert len(load(f"npz:{tmp_path / 'a#1.npz'}#arr_0", seed=0).x) == 9


def test_an_archive_that_another_program_wrote(tmp_path):
    # numpy writes an extra field before the array; a plain zip does not
    np.save(tmp_path / "images.npy", X)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("note.txt", "hello")
        archive.write(tmp_path / "images.npy", "images.npy")
    assert np.array_equal(map_array(tmp_path / "a.npz", "images"), X)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("save", [np.savez, np.save])
def test_floats_are_read_from_a_map_without_a_warning(save, tmp_path):
    x = np.random.default_rng(0).random((5, 1, 6, 7), dtype=np.float32)
    save(path := tmp_path / ("a.npy" if save is np.save else "a.npz"), x)
    assert torch.equal(load(f"npz:{path}", seed=0).x, torch.from_numpy(x))
