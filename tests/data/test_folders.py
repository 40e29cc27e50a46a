"""Pictures in folders: one's own, the archives of the literature, ImageNet."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from oodattack.data import folders, load, start_images
from oodattack.data.published import ARCHIVES


def save(path, value=0, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value,) * 3).save(path)


def values(images):
    return (images.x[:, 0, 0, 0] * 255).round().int().tolist()


def test_a_sub_folder_is_a_class(tmp_path):
    for k, name in enumerate(("cat/b.png", "cat/a.png", "cat/deep/c.PNG", "ant/z.png", "dog/d.png")):
        save(tmp_path / name, 40 * k)
    save(tmp_path / ".hidden" / "x.png")
    save(tmp_path / "dog" / ".thumb.png")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "bee").mkdir()
    images = load(f"folder:{tmp_path}", seed=0)
    assert images.name == f"folder:{tmp_path}"
    assert images.x.shape == (5, 3, 30, 40)
    assert values(images) == [120, 40, 0, 80, 160]
    assert images.y.tolist() == [0, 2, 2, 2, 3]  # ant 0, bee 1, cat 2, dog 3


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match="` must have pictures of 8 or 16 bits, got floating point"):
        load(f"folder:{tmp_path}", seed=0)


def test_torchvision_reads_the_same(tmp_path):
    from torchvision.datasets import ImageFolder

    for k, name in enumerate(("b/2.png", "b/10.png", "a/x/1.png", "a/0.png", "B/0.png")):
        save(tmp_path / name, 40 * k)
    theirs, ours = ImageFolder(tmp_path), load(f"folder:{tmp_path}", seed=0)
    assert values(ours) == [picture.getpixel((0, 0))[0] for picture, _ in theirs]
    assert ours.y.tolist() == theirs.targets


def test_a_flat_folder_has_no_labels(tmp_path):
    for k in range(4):
        save(tmp_path / f"{k}.png", 60 * k, mode="L")
    images = load(f"folder:{tmp_path}", seed=0)
    assert images.x.shape == (4, 1, 30, 40)
    assert values(images) == [0, 60, 120, 180]
    assert images.y is None


def test_one_colour_picture_makes_all_of_them_colour(tmp_path):
    save(tmp_path / "0.png", 60, mode="L")
    save(tmp_path / "1.png", 90)
    images = load(f"folder:{tmp_path}", seed=0)
    assert images.x.shape == (2, 3, 30, 40)
    assert (images.x * 255).mean(dim=(1, 2, 3)).round().tolist() == [60, 90]


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    Image.fromarray(np.array([[0, 257, 33000, 65535]] * 4, dtype=np.uint16)).save(tmp_path / "0.png")
    # 33000 / 257 = 128.4
    assert (load(f"folder:{tmp_path}", seed=0).x[0, 0, 0] * 255).round().tolist() == [0, 1, 128, 255]


def test_pictures_of_different_sizes_need_a_format_or_a_protocol(tmp_path):
    save(tmp_path / "0.png", size=(40, 30))
    save(tmp_path / "1.png", size=(50, 70))
    with pytest.raises(ValueError, match="must hold pictures of one size, got 30 x 40 and 70 x 50"):
        load(f"folder:{tmp_path}", seed=0)
    assert load(f"folder:{tmp_path}", seed=0, channels=1, size=16).x.shape == (2, 1, 16, 16)
    assert load(f"folder:{tmp_path}", seed=0, protocol="resize-224").x.shape == (2, 3, 224, 224)


def test_only_the_chosen_pictures_are_opened(tmp_path, monkeypatch):
    for k in range(20):
        save(tmp_path / f"{k:02}.png", 10 * k)
    opened, real = [], folders.open_picture
    monkeypatch.setattr(
        folders, "open_picture", lambda path, upright: opened.append(path) or real(path, upright=upright)
    )
    images = load(f"folder:{tmp_path}", samples=3, seed=4)
    assert len(opened) == 3
    assert values(images) == [10 * int(path.stem) for path in opened]
    assert values(images) == sorted(values(images))


def test_the_camera_tag_turns_ones_own_pictures(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    picture = Image.fromarray(np.array([[0] * 8] * 4 + [[255] * 8] * 4, dtype=np.uint8))
    picture.save(tmp_path / "a.png", exif=exif)
    assert load(f"folder:{tmp_path}", seed=0).x[0, 0, 0, 0] == 1
    (tmp_path / "root" / "LSUN").mkdir(parents=True)
    picture.save(tmp_path / "root" / "LSUN" / "a.png", exif=exif)
    assert load("lsun-crop", seed=0, root=tmp_path / "root").x[0, 0, 0, 0] == 0


def broken(tmp_path):
    (tmp_path / "a.png").write_text("no picture")


def half(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])


def both(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b" / "a.png")


WRONG = {
    "missing": (os.rmdir, "must name a folder, got none at"),
    "empty": (lambda path: None, r"must hold pictures \(.jpg, .*\), got none in"),
    "text": (broken, "must hold readable pictures, got: cannot identify"),
    "cut off": (half, r"must hold readable pictures, got: .* in \S*a\.png\. Restore that file"),
    "flat and classes": (both, "must be flat or have a sub-folder a class, got both. Move the 1 pictures"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_broken_folders(make, message, tmp_path):
    (folder := tmp_path / "a").mkdir()
    make(folder)
    with pytest.raises(ValueError, match=message) as error:
        load(f"folder:{folder}", seed=0)
    assert str(error.value).startswith(f"`folder:{folder}` must ")
    assert "\n" not in str(error.value)


def test_decompression_bomb(tmp_path, monkeypatch):
    save(tmp_path / "bomb.png", size=(80, 80))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match="must have at most 4000 pixels a picture, got more"):
        load(f"folder:{tmp_path}", seed=0)


def test_picture_is_one_image_and_looks_like_the_start_image(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    name = f"picture:{tmp_path / 'a.png'}"
    assert load(name, seed=0).x.shape == (1, 3, 30, 50)
    for channels in (1, 3):
        start = start_images(name, 1, channels=channels, size=16, seed=0)
        assert torch.equal(load(name, seed=0, channels=channels, size=16).x, start)
    assert load(name, seed=0, protocol="center-crop-32").x.shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"`picture:nowhere.png` must name a file, got none there"):
        load("picture:nowhere.png", seed=0)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_found_below_the_root_or_a_folder_of_their_name(name, tmp_path):
    folder = ARCHIVES[name].folders["test"]
    for root, home in ((tmp_path / "a", "."), (tmp_path / "b", name)):
        for k in range(3):
            save(root / home / folder / "n01440764" / f"{k}.png", 80 * k, size=(64, 64))
        images = load(name, seed=0, root=root)
        assert len(images.x) == 3
        assert values(images) == [0, 80, 160]
        assert (images.y is None) == (ARCHIVES[name].list is folders.all_below)
        size = 64 if ARCHIVES[name].protocol is None else 224
        assert images.x.shape[2:] == (size, size)


def test_omniglot_counts_characters_over_all_alphabets(tmp_path):
    for part in ("images_evaluation", "images_background"):
        for k, character in enumerate(("Greek/character02", "Greek/character01", "Angelic/character01")):
            save(tmp_path / "omniglot-py" / part / character / "0001_01.png", k % 2, size=(105, 105), mode="1")
    for part in ("test", "train"):
        images = load("omniglot", part=part, seed=0, root=tmp_path)
        assert images.x.shape == (3, 1, 105, 105)
        assert values(images) == [0, 255, 0]  # Angelic 01, Greek 01, Greek 02
        assert images.y.tolist() == [0, 1, 2]


def test_imagenet_labels_are_places_in_the_alphabet(tmp_path):
    for k, (part, wnid) in enumerate((("val", "n02"), ("val", "n01"), ("train", "n01"), ("train", "n02"))):
        save(tmp_path / part / wnid / "0.png", 80 * (k % 2), size=(256, 256))
    assert load("imagenet", seed=0, root=tmp_path).y.tolist() == [0, 1]
    assert values(load("imagenet", seed=0, root=tmp_path)) == [80, 0]
    assert values(load("imagenet", part="train", seed=0, root=tmp_path)) == [0, 80]


def test_imagenet_labels_are_those_of_the_folders_to_train_on(tmp_path):
    for name in ("n1", "n3", "n4"):
        save(tmp_path / "imagenet" / "train" / name / "x.JPEG")
    for name in ("n2", "n3", "n4"):
        save(tmp_path / "imagenet" / "val" / name / "x.JPEG")
    assert load("imagenet", seed=0, part="train", root=tmp_path).y.tolist() == [0, 1, 2]
    assert load("imagenet", seed=0, root=tmp_path).y.tolist() == [3, 1, 2]  # n2 comes after those to train on
