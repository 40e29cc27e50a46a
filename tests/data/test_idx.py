"""MNIST and its relatives from idx files, in every place where they may lie."""

import gzip
import struct

import numpy as np
import pytest
import torch

from oodattack.data import idx, load
from oodattack.data.idx import FAMILIES, read_idx

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8)
Y = np.arange(12, dtype=np.uint8) % 10
LETTERS = np.arange(1, 13, dtype=np.uint8)  # A is 1 in the files
TITLES = {name: family.title for name, family in FAMILIES.items()}


def idx_bytes(array):
    # 0, 0, 8 for bytes, number of axes; then the sizes, big end first
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, start, x=X, y=Y, *, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", x), ("labels-idx1", y)):
        data, ending = idx_bytes(array), ""
        if packed:
            data, ending = gzip.compress(data), ".gz"
        (folder / f"{start}-{kind}-ubyte{ending}").write_bytes(data)


@pytest.fixture(autouse=True)
def no_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "debian" / "fashion-mnist")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("part", ["test", "train"])
def test_parts_where_torchvision_puts_them(name, part, tmp_path):
    start = FAMILIES[name].train if part == "train" else FAMILIES[name].test
    write(tmp_path / TITLES[name] / "raw", start, y=LETTERS if name == "emnist-letters" else Y)
    images = load(name, part=part, seed=0, root=tmp_path)
    assert torch.equal(images.x, torch.from_numpy(X)[:, None] / 255)
    assert images.y.tolist() == [*range(12)] if name == "emnist-letters" else Y.tolist()
    assert images.source == f"torchvision {TITLES[name]}, {part}"
    with pytest.raises(ValueError, match=f"`{name}` must lie below --data-root as {TITLES[name]}/raw/"):
        load(name, part="train" if part == "test" else "test", seed=0, root=tmp_path)


def test_torchvision_reads_the_same(tmp_path):
    from torchvision.datasets import MNIST

    for start in ("train", "t10k"):
        write(tmp_path / "MNIST" / "raw", start)
    theirs = MNIST(tmp_path, train=False, download=False)
    ours = load("mnist", seed=0, root=tmp_path)
    assert torch.equal((ours.x[:, 0] * 255).round().byte(), theirs.data)
    assert torch.equal(ours.y, theirs.targets)


PLACES = ["MNIST/raw", "mnist/MNIST/raw", "mnist"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("packed", [False, True])
def test_other_places_packed_or_not(place, packed, tmp_path):
    write(tmp_path / place, "t10k", packed=packed)
    assert len(load("mnist", seed=0, root=tmp_path).x) == 12


def test_the_root_may_be_the_folder_itself_if_it_has_the_name(tmp_path):
    write(tmp_path / "kmnist", "t10k")
    assert len(load("kmnist", seed=0, root=tmp_path / "kmnist").x) == 12
    with pytest.raises(ValueError, match="`mnist` must lie below --data-root"):  # the files have the same names
        load("mnist", seed=0, root=tmp_path / "kmnist")


def test_debians_folder_is_found_without_a_root_and_only_for_fashion(tmp_path):
    write(tmp_path / "debian" / "fashion-mnist", "t10k", packed=True)
    (tmp_path / "empty").mkdir()
    assert len(load("fashion-mnist", seed=0).x) == 12
    assert len(load("fashion-mnist", seed=0, root=tmp_path / "empty").x) == 12
    assert len(load("fashion-mnist", seed=0, root=tmp_path / "debian").x) == 12
    with pytest.raises(ValueError, match="`mnist` must be on your disk, got no --data-root"):
        load("mnist", seed=0)


def test_the_root_goes_before_debian(tmp_path):
    write(tmp_path / "debian" / "fashion-mnist", "t10k", packed=True)
    write(tmp_path / "FashionMNIST" / "raw", "t10k", 255 - X)
    assert torch.equal(load("fashion-mnist", seed=0, root=tmp_path).x * 255, torch.from_numpy(255 - X)[:, None].float())


BROKEN = {
    "text": (b"hello world", "must be an idx file of bytes with 3 axes"),
    "empty": (b"", "must be a whole idx file"),
    "labels for images": (idx_bytes(Y), "must be an idx file of bytes with 3 axes"),
    "short header": (idx_bytes(X)[:10], "must be an idx file of bytes with 3 axes"),
    "cut off": (idx_bytes(X)[:-1], "must be as long as its shape [12, 28, 28] says, got 9423 bytes"),  # 16 + 9408 - 1
    "too long": (idx_bytes(X) + b"0", "must be as long as its shape [12, 28, 28] says, got 9425 bytes"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files(data, message, tmp_path):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_idx(tmp_path / "a", axes=3)
    assert str(error.value).startswith(f"`{tmp_path / 'a'}` {message}")
    assert "\n" not in str(error.value)


def test_broken_gzip_and_missing_labels(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(X))[:-20])
    with pytest.raises(ValueError, match=r"a\.gz` must be a whole idx file"):
        read_idx(tmp_path / "a.gz", axes=3)
    write(tmp_path / "MNIST" / "raw", "t10k")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="labels-idx1-ubyte` must be a whole idx file"):
        load("mnist", seed=0, root=tmp_path)
    write(tmp_path / "MNIST" / "raw", "t10k", y=Y[:5])
    with pytest.raises(ValueError, match="`mnist` must have a label an image, got 5 for 12"):
        load("mnist", seed=0, root=tmp_path)


def test_plain_files_are_mapped_and_only_read_where_asked(tmp_path):
    (tmp_path / "a").write_bytes(idx_bytes(X))
    assert isinstance(read_idx(tmp_path / "a", axes=3), np.memmap)


def test_samples_are_those_of_subset(tmp_path):
    from oodattack.data import subset

    write(tmp_path / "MNIST" / "raw", "t10k")
    whole = load("mnist", seed=0, root=tmp_path)
    some = load("mnist", samples=5, seed=3, root=tmp_path)
    assert torch.equal(some.x, subset(whole, 5, seed=3).x)
    assert torch.equal(some.y, subset(whole, 5, seed=3).y)
    with pytest.raises(ValueError, match=r"`samples` must be in 1\.\.12 for `mnist`, got 13"):
        load("mnist", samples=13, seed=0, root=tmp_path)
    assert len(load("mnist", samples=13, seed=0, root=tmp_path, at_most=True).x) == 12


def test_format_asked_for(tmp_path):
    write(tmp_path / "MNIST" / "raw", "t10k")
    assert load("mnist", seed=0, root=tmp_path).x.shape == (12, 1, 28, 28)
    assert load("mnist", seed=0, root=tmp_path, channels=3).x.shape == (12, 3, 28, 28)
    images = load("mnist", seed=0, root=tmp_path, channels=3, size=32)
    assert images.x.shape == (12, 3, 32, 32)
    assert images.source == "torchvision MNIST, test; grey-to-rgb, resize 32, center-crop 32"
    padded = load("mnist", seed=0, root=tmp_path, channels=1, size=16, protocol="gq-cifar")  # nothing but the protocol
    assert torch.equal(padded.x[:, :, 2:-2, 2:-2], torch.from_numpy(X)[:, None].expand(-1, 3, -1, -1) / 255)
    # what is left is a black rim
    assert padded.x.sum().item() == pytest.approx(3 * X.sum().item() / 255, rel=1e-4)
