import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from oodattack.data import DATASETS, PROTOCOLS, load
from oodattack.data.protocols import steps_in_format, steps_of
from oodattack.data.steps import Step, apply_steps, fit_steps, told

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1))  # 384 x 512
DIGIT = Image.fromarray(RNG.integers(0, 256, (28, 28), dtype=np.uint8))

# what the papers' code writes with torchvision, and a set that gets it
THEIRS = {
    "resize-32": ("stl10", [transforms.Resize(32)]),
    "center-crop-32": ("svhn", [transforms.CenterCrop(32)]),
    "resize-32-center-crop-32": ("textures", [transforms.Resize(32), transforms.CenterCrop(32)]),
    "pad-2-grey-to-rgb": ("mnist", [transforms.Grayscale(3), transforms.Pad(2)]),
    "resize-256-crop-224": ("imagenet", [transforms.Resize(256), transforms.CenterCrop(224)]),
    "odin-crop": ("lsun-crop", [transforms.CenterCrop(32)]),
    "resize-480": ("imagenet", [transforms.Resize((480, 480))]),
    "resize-254": ("imagenet", [transforms.Resize((254, 254))]),
    "gaia-cifar": ("textures", [transforms.CenterCrop((32, 32))]),
    "gaia-imagenet": ("imagenet", [transforms.Resize((480, 480))]),
    "gq-cifar": ("lsun-crop", [transforms.Resize(32)]),
    "gq-imagenet-30": ("imagenet", [transforms.Resize((254, 254))]),
    "greg-cifar": ("lsun-crop", [transforms.CenterCrop(32)]),
    "openood-cifar": ("textures", [transforms.Resize(32), transforms.CenterCrop(32)]),
    "openood-imagenet": ("textures", [transforms.Resize(256), transforms.CenterCrop(224)]),
}


@pytest.mark.parametrize(("name", "theirs"), THEIRS.items(), ids=THEIRS)
def test_pictures_come_out_as_in_the_papers_code(name, theirs):
    who, steps = theirs
    picture = DIGIT if who == "mnist" else PHOTO
    expected = transforms.Compose(steps)(picture)
    assert np.array_equal(np.asarray(apply_steps(picture, steps_of(name, who))), np.asarray(expected))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_protocol_works_on_tensors_and_pictures_alike(name, channels):
    picture = PHOTO if channels == 3 else PHOTO.convert("L")
    x = torch.from_numpy(np.array(picture)).double().view(384, 512, channels).permute(2, 0, 1)[None] / 255
    found = apply_steps(x, PROTOCOLS[name].steps)
    expected = np.asarray(apply_steps(picture, PROTOCOLS[name].steps), dtype=np.float64)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.dtype == torch.float64
    assert found.shape[-2:] == expected.shape[:2]
    # Pillow rounds to 8 bits after each of two passes of a resize
    assert abs(found[0].permute(1, 2, 0).numpy() * 255 - expected.reshape(*expected.shape[:2], -1)).max() < 2.1
    assert PROTOCOLS[name].source


def test_padding_and_cropping_by_hand():
    x = torch.arange(1.0, 10).view(1, 1, 3, 3) / 10
    padded = apply_steps(x, (Step("pad", 2),))
    assert padded.shape == (1, 1, 7, 7)
    assert torch.equal(padded[..., 2:5, 2:5], x)
    assert padded.sum().item() == pytest.approx(4.5)  # (1 + ... + 9) / 10, and black around it
    assert torch.equal(apply_steps(padded, (Step("center-crop", 3),)), x)
    assert torch.equal(apply_steps(x, (Step("center-crop", 7),)), padded)  # a larger crop pads


def test_thirty_six_to_thirty_two_cuts_two_pixels_off_each_side():
    x = torch.rand(2, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    assert torch.equal(apply_steps(x, steps_of("odin-crop", "lsun-crop")), x[..., 2:34, 2:34])


def test_grey_and_colour_by_hand():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert apply_steps(red, (Step("rgb-to-grey"),)).item() == pytest.approx(0.299)
    grey = torch.full((1, 1, 2, 2), 0.25)
    assert torch.equal(apply_steps(grey, (Step("grey-to-rgb"),)), torch.full((1, 3, 2, 2), 0.25))
    assert apply_steps(grey, (Step("rgb-to-grey"),)) is grey


def test_rows_do_not_influence_one_another():
    x = torch.rand(4, 3, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, protocol in PROTOCOLS.items():
        torch.testing.assert_close(apply_steps(x, protocol.steps)[2:3], apply_steps(x[2:3], protocol.steps), msg=name)


def test_a_paper_protocol_treats_sets_differently():
    assert steps_of("gq-cifar", "mnist") == (Step("grey-to-rgb"), Step("pad", 2))
    assert steps_of("gq-cifar", "svhn") == (Step("resize", 32),)
    assert steps_of("gq-cifar", "textures") == (Step("resize", 32), Step("center-crop", 32))
    assert steps_of("greg-cifar", "svhn") == ()
    assert steps_of("greg-cifar", "lsun-crop") == (Step("center-crop", 32),)


def test_the_table_is_whole():
    for protocol in PROTOCOLS.values():
        assert set(protocol.instead) <= set(DATASETS)
        assert {PROTOCOLS[name].instead == {} for name in protocol.instead.values()} <= {True}
    for dataset in DATASETS.values():
        assert dataset.protocol is None or dataset.protocol in PROTOCOLS


def test_format_without_a_protocol():
    large = "resize-256-crop-224"
    crop = PROTOCOLS[large].steps
    assert steps_in_format(None, channels=None, size=None) == ()
    assert steps_in_format(large, channels=None, size=None) == crop
    assert steps_in_format(large, channels=3, size=224) == (Step("grey-to-rgb"), *crop)
    assert steps_in_format(large, channels=1, size=32) == fit_steps(1, 32)
    assert steps_in_format("resize-32x32", channels=None, size=32) == (Step("resize", (32, 32)),)
    assert fit_steps(None, 32) == (Step("resize", 32), Step("center-crop", 32))


def test_what_fits_already_is_left_alone():
    picture = Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(apply_steps(picture, fit_steps(3, 32))), np.asarray(picture))


def test_steps_in_words():
    assert (
        told((Step("resize", 32), Step("resize", (4, 5)), Step("grey-to-rgb")))
        == "; resize 32, resize 4 x 5, grey-to-rgb"
    )
    assert told(()) == ""


@pytest.mark.parametrize(
    "step", [Step("rotate", 90), Step("resize"), Step("center-crop", (3, 4)), Step("grey-to-rgb", 3)]
)
def test_unknown_steps(step):
    with pytest.raises(ValueError, match="`step` must be one that this file documents, got Step"):
        apply_steps(torch.zeros(1, 1, 4, 4), (step,))


def test_protocols_of_arrays_and_built_in_sets(tmp_path):
    x = torch.rand(3, 3, 36, 36, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "a.npz", x)
    images = load(f"npz:{tmp_path / 'a.npz'}", seed=0, protocol="odin-crop", size=8)
    assert torch.equal(images.x, torch.from_numpy(x)[..., 2:34, 2:34])
    assert images.source.endswith("a.npz; center-crop 32")
    images = load("digits-6-9", samples=3, seed=0, protocol="pad-2-grey-to-rgb")
    assert images.x.shape == (3, 3, 36, 36)
    assert load("noise", samples=3, seed=0, protocol="keep").x.shape == (3, 1, 32, 32)


def test_unknown_protocol():
    with pytest.raises(
        ValueError, match=r"Did you mean 'resize-32'\? `protocol` must be one of keep, .*got 'resize32'\."
    ):
        load("digits", seed=0, protocol="resize32")
