"""Sets that torchvision reads: tiny ones in the formats on disk, and what is said where one is missing."""

import hashlib
import io
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as sets

from oodattack.data import DATASETS, idx, load
from oodattack.data.idx import FAMILIES
from oodattack.data.published import ARCHIVES
from oodattack.data.shipped import SHELVES

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
Y = [3, 1, 4, 1, 5, 9]
HALF = COLOUR[:3], COLOUR[3:]  # test, train


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def written(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def encoded(array, ending):
    Image.fromarray(array).save(out := io.BytesIO(), format={"jpg": "JPEG", "ppm": "PPM"}.get(ending, ending.upper()))
    return out.getvalue()


def write_cifar(root, monkeypatch, name, labels):
    """Three test and three train images; the sums that torchvision checks become those of these files."""
    set_ = {"cifar-10": sets.CIFAR10, "cifar-100": sets.CIFAR100}[name]
    folder = root / set_.base_folder
    parts = {"test_list": (COLOUR[:3], Y[:3]), "train_list": (COLOUR[3:], Y[3:])}
    for which, (x, y) in parts.items():
        file = getattr(set_, which)[0][0]
        rows = {"data": x.transpose(0, 3, 1, 2).reshape(3, -1), labels: y}
        path = written(folder / file, pickle.dumps(rows))
        monkeypatch.setattr(set_, which, [[file, md5(path)]])
    meta = written(folder / set_.meta["filename"], pickle.dumps({set_.meta["key"]: list("abcdefghij")}))
    monkeypatch.setattr(set_, "meta", {**set_.meta, "md5": md5(meta)})


@pytest.mark.parametrize(("name", "labels"), [("cifar-10", "labels"), ("cifar-100", "fine_labels")])
def test_cifar(name, labels, tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, name, labels)
    for part, keep in (("test", slice(3)), ("train", slice(3, 6))):
        images = load(name, part=part, seed=0, root=tmp_path)
        assert torch.equal(images.x, torch.from_numpy(COLOUR[keep]).permute(0, 3, 1, 2) / 255)
        assert images.y.tolist() == Y[keep]
        assert images.source == f"torchvision CIFAR{name[6:]}, {part}"


def test_cifar_with_another_checksum_is_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    for file in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        written(tmp_path / "cifar-10-batches-py" / file, pickle.dumps(Bomb()))
    with pytest.raises(
        ValueError, match=r"`cifar-10` must be whole in .*got: Dataset not found or corrupted\. Download"
    ):
        load("cifar-10", seed=0, root=tmp_path)
    assert not (tmp_path / "exploded").exists()


def write_svhn(root, monkeypatch):
    from scipy.io import savemat

    sums = {}
    for part, x in zip(("test", "train", "extra"), (*HALF, COLOUR), strict=True):
        url, file, _ = sets.SVHN.split_list[part]
        y = np.array([10, *Y[1 : len(x)]])[:, None]  # SVHN calls the digit zero 10
        savemat(root / file, {"X": x.transpose(1, 2, 3, 0), "y": y})
        sums[part] = [url, file, md5(root / file)]
    monkeypatch.setattr(sets.SVHN, "split_list", sums)


@pytest.mark.parametrize(("part", "n"), [("test", 3), ("train", 3), ("extra", 6)])
def test_svhn(part, n, tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    images = load("svhn", part=part, seed=0, root=tmp_path)
    assert images.x.shape == (n, 3, 32, 32)
    x = COLOUR[3:] if part == "train" else COLOUR[:n]
    assert torch.equal(images.x, torch.from_numpy(x).permute(0, 3, 1, 2) / 255)
    assert images.y.tolist() == [0, *Y[1:n]]


def test_svhn_in_a_folder_of_its_name_and_broken(tmp_path, monkeypatch):
    (tmp_path / "svhn").mkdir()
    write_svhn(tmp_path / "svhn", monkeypatch)
    assert len(load("svhn", seed=0, root=tmp_path).x) == 3
    (tmp_path / "svhn" / "test_32x32.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ValueError, match=r"`svhn` must be whole in .*svhn, got: Dataset not found or corrupted\. Down"):
        load("svhn", seed=0, root=tmp_path)


def test_stl10(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    x = RNG.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    files = {}
    for part in ("train", "test", "unlabeled"):
        files[part] = [[f"{part}_X.bin", md5(written(folder / f"{part}_X.bin", x.tobytes()))]]
    for part in ("train", "test"):
        labels = np.array([1, 2, 10, 4], dtype=np.uint8).tobytes()  # on disk they begin with 1
        files[part].append([f"{part}_y.bin", md5(written(folder / f"{part}_y.bin", labels))])
    monkeypatch.setattr(sets.STL10, "train_list", files["train"] + files["unlabeled"])
    monkeypatch.setattr(sets.STL10, "test_list", files["test"])
    for part in ("test", "train"):
        images = load("stl10", part=part, seed=0, root=tmp_path)
        assert torch.equal(images.x, torch.from_numpy(x).transpose(2, 3) / 255)  # columns first on disk
        assert images.y.tolist() == [0, 1, 9, 3]


def write_dtd(root):
    base = root / "dtd" / "dtd"
    for kind, size in (("banded", (40, 60)), ("woven", (64, 48))):
        for k in range(3):
            picture = np.full((*size, 3), 80 * k, dtype=np.uint8)
            written(base / "images" / kind / f"{kind}_{k}.png", encoded(picture, "png"))
    for k, part in enumerate(("train", "val", "test")):
        lines = "".join(f"{kind}/{kind}_{k}.png\n" for kind in ("banded", "woven"))
        written(base / "labels" / f"{part}1.txt", lines.encode())


@pytest.mark.parametrize(("part", "value"), [("train", 0), ("val", 80), ("test", 160)])
def test_dtd(part, value, tmp_path):
    write_dtd(tmp_path)
    images = load("dtd", part=part, seed=0, root=tmp_path, channels=3, size=32)
    assert images.x.shape == (2, 3, 32, 32)
    assert (images.x * 255).unique().tolist() == [value]
    assert images.y.tolist() == [0, 1]


def test_textures_are_all_of_dtd_and_get_their_own_protocol(tmp_path):
    write_dtd(tmp_path)
    images = load("textures", seed=0, root=tmp_path)
    assert images.x.shape == (6, 3, 224, 224)
    assert images.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.source.endswith("; resize 256, center-crop 224")
    # as another set's company at 224 pixels, it is treated as it is by itself
    assert torch.equal(images.x, load("textures", seed=0, root=tmp_path, channels=3, size=224).x)
    with pytest.raises(
        ValueError, match=r"`textures` must hold pictures of one size, got 40 x 60 and 64 x 48\. Name a --"
    ):
        load("textures", seed=0, root=tmp_path, protocol="keep")


def test_gtsrb(tmp_path):
    base = tmp_path / "gtsrb"
    signs = [np.full((30 + k, 40, 3), 50 * k, dtype=np.uint8) for k in range(3)]
    lines = ["Filename;Width;Height;ClassId"]
    for k, sign in enumerate(signs):
        written(base / "GTSRB" / "Final_Test" / "Images" / f"{k:05}.ppm", encoded(sign, "ppm"))
        lines.append(f"{k:05}.ppm;40;{30 + k};{7 * k}")
        written(base / "GTSRB" / "Training" / f"{k:05}" / "0.ppm", encoded(sign, "ppm"))
    (base / "GT-final_test.csv").write_text("\n".join(lines))
    images = load("gtsrb", seed=0, root=tmp_path)
    assert images.x.shape == (3, 3, 32, 32)
    assert (images.x[:, 0, 0, 0] * 255).tolist() == [0, 50, 100]
    assert images.y.tolist() == [0, 7, 14]
    assert load("gtsrb", part="train", seed=0, root=tmp_path).y.tolist() == [0, 1, 2]


def test_places365(tmp_path, monkeypatch):
    written(tmp_path / "categories_places365.txt", b"/a/airfield 0\n/a/alley 1\n")
    monkeypatch.setattr(sets.Places365, "_CATEGORIES_META", ("categories_places365.txt", md5(next(tmp_path.iterdir()))))
    lists, lines = {}, {"val": ("v.jpg 1\n", "val_256/v.jpg"), "test": ("t.jpg\n", "test_256/t.jpg")}
    lines["train-standard"] = "/a/alley/1.jpg 1\n", "data_256_standard/a/alley/1.jpg"
    for split, (line, picture) in lines.items():
        file = sets.Places365._FILE_LIST_META[split][0]
        lists[split] = (file, md5(written(tmp_path / file, line.encode())))
        written(tmp_path / picture, encoded(np.full((256, 256, 3), 200, dtype=np.uint8), "jpg"))
    monkeypatch.setattr(sets.Places365, "_FILE_LIST_META", lists)
    assert load("places365", seed=0, root=tmp_path).x.shape == (1, 3, 256, 256)
    assert load("places365", seed=0, root=tmp_path).y is None
    assert load("places365", part="val", seed=0, root=tmp_path).y.tolist() == [1]
    assert load("places365", part="train", seed=0, root=tmp_path).y.tolist() == [1]
    (tmp_path / "categories_places365.txt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"`places365` must be whole in .*or is corrupted\. Download torchvision\.data"
    ):
        load("places365", seed=0, root=tmp_path)


def test_inaturalist_in_alphabetical_order(tmp_path, monkeypatch):
    kinds = ["00000_Animalia_Chordata_Aves_A_B_C_d", "00001_Plantae_Tracheophyta_Liliopsida_A_B_C_d"]
    for version in ("2021_valid", "2021_train"):
        for k, kind in enumerate(kinds):
            for n in range(3):
                picture = np.full((300, 260 + n, 3), 100 * k + 20 * n, dtype=np.uint8)
                written(tmp_path / version / kind / f"{n}.png", encoded(picture, "png"))
    listdir = os.listdir
    for order in (sorted, lambda names: sorted(names, reverse=True)):
        monkeypatch.setattr(os, "listdir", lambda path, order=order: order(listdir(path)))
        images = load("inaturalist", seed=0, root=tmp_path)
        assert (images.x[:, 0, 0, 0] * 255).round().tolist() == [0, 20, 40, 100, 120, 140]
        assert images.x.shape == (6, 3, 224, 224)
        assert images.y.tolist() == [0, 0, 0, 1, 1, 1]


def test_celeba(tmp_path, monkeypatch):
    folder = tmp_path / "celeba"
    names, split = [f"{k:06}.jpg" for k in range(6)], [0, 1, 2] * 2
    for name, k in zip(names, split, strict=True):
        picture = np.full((218, 178, 3), 80 * k, dtype=np.uint8)
        written(folder / "img_align_celeba" / name, encoded(picture, "jpg"))
    tables = {
        "list_eval_partition.txt": "".join(f"{name} {k}\n" for k, name in zip(split, names, strict=True)),
        "identity_CelebA.txt": "".join(f"{name} 9\n" for name in names),
        "list_bbox_celeba.txt": "3\nimage_id x_1\n" + "".join(f"{name} 1\n" for name in names),
        "list_landmarks_align_celeba.txt": "3\nx\n" + "".join(f"{name} 1\n" for name in names),
        "list_attr_celeba.txt": "3\nMale Young\n" + "".join(f"{name} -1 1\n" for name in names),
    }
    sums = [("", md5(written(folder / file, text.encode())), file) for file, text in tables.items()]
    monkeypatch.setattr(sets.CelebA, "file_list", sums)
    for k, part in enumerate(("train", "valid", "test")):
        images = load("celeba", part=part, seed=0, root=tmp_path)
        assert images.x.shape == (2, 3, 218, 178)
        assert (images.x * 255).mean().round().item() == 80 * k
        assert images.y is None


def test_lsun(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    for folder, n in (("test_lmdb", 3), ("bedroom_val_lmdb", 2)):
        with lmdb.open(str(tmp_path / folder), map_size=2**22) as base, base.begin(write=True) as transaction:
            for k in range(n):
                picture = np.full((256, 300, 3), 40 * k, dtype=np.uint8)
                transaction.put(f"key{k}".encode(), encoded(picture, "png"))
    images = load("lsun", seed=0, root=tmp_path, size=32)
    assert images.x.shape == (3, 3, 32, 32)
    assert (images.x[:, 0, 0, 0] * 255).tolist() == [0, 40, 80]
    assert images.y is None
    with pytest.raises(ValueError, match="`lsun` must lie below --data-root as bridge_val_lmdb"):
        load("lsun", part="val", seed=0, root=tmp_path)
    (tmp_path / "test_lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="`lsun` must be whole in"):
        load("lsun", seed=0, root=tmp_path)


def test_lsun_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    (tmp_path / "test_lmdb").mkdir()
    with pytest.raises(
        ValueError, match=r"`lsun` must be read with the package lmdb, got none\. Install it: pip install"
    ):
        load("lsun", seed=0, root=tmp_path)


def test_fake_data_rows_do_not_depend_on_how_many_are_drawn():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x = load("fake-data", samples=20, seed=1, channels=3, size=16)
    assert torch.equal(before, torch.get_rng_state())
    assert x.x.shape == (20, 3, 16, 16)
    assert ((x.y >= 0) & (x.y < 10)).all()
    some = load("fake-data", samples=5, seed=1, channels=3, size=16)
    assert torch.equal(some.x, x.x[:5])
    apart = torch.cdist(x.x.flatten(1), load("fake-data", samples=20, seed=2, channels=3, size=16).x.flatten(1))
    assert apart.min() > 1


DOWNLOADED = [*FAMILIES, *SHELVES, "lsun", *ARCHIVES]
CASES = [(name, part) for name in DOWNLOADED for part in DATASETS[name].parts]


@pytest.fixture
def no_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "nowhere")


def title_of(name):
    if name == "lsun":
        return "torchvision.datasets.LSUN"
    title = {**FAMILIES, **SHELVES, **ARCHIVES}[name].title
    return f"torchvision.datasets.{title}" if name in {**FAMILIES, **SHELVES} else title


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize(("name", "part"), CASES)
def test_a_missing_set_says_what_to_download_and_which_option_points_to_it(name, part, tmp_path):
    (tmp_path / "data").mkdir()
    for root in (None, tmp_path / "data"):
        with pytest.raises(ValueError) as error:
            load(name, part=part, seed=0, root=root)
        message = str(error.value)
        assert message.startswith(f"`{name}` must ")
        assert f"Download {title_of(name)} (http" in message
        assert "--data-root" in message
        assert root is None or str(root) in message
        assert "\n" not in message
    assert not any((tmp_path / "data").iterdir())  # looking leaves nothing behind


def test_torchvision_has_every_class_that_is_named():
    for name in [*FAMILIES, *SHELVES, "lsun", "imagenet", "textures", "omniglot"]:
        assert hasattr(sets, title_of(name).removeprefix("torchvision.datasets."))


def test_a_root_that_is_no_folder():
    with pytest.raises(ValueError, match=r"`--data-root` must name a folder, got '/no/such/place'\. Check the path\."):
        load("cifar-10", seed=0, root="/no/such/place")


def test_only_the_chosen_pictures_are_decoded(tmp_path, monkeypatch):
    write_dtd(tmp_path)
    seen = []
    monkeypatch.setattr(sets.DTD, "__getitem__", lambda self, k: seen.append(k) or (Image.new("RGB", (40, 40)), 0))
    load("dtd", seed=0, root=tmp_path, samples=1)
    assert len(seen) == 1
