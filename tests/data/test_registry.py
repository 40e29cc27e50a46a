import sys

import numpy as np
import pytest
import torch

from oodattack.data import DATASETS, load
from oodattack.data.digits import digits
from oodattack.data.embedded import EMBEDDED
from oodattack.data.files import FILES

SETS = [(name, part) for name, entry in EMBEDDED.items() for part in entry.parts]
NAMES = """
    digits digits-6-9 photos noise spirals checkerboards far-mix mnist fashion-mnist kmnist emnist omniglot cifar-10
    cifar-100 svhn stl10 dtd textures gtsrb places365 inaturalist lsun imagenet celeba fake-data
"""


@pytest.mark.parametrize(("name", "part"), SETS)
def test_every_set_loads_as_images(name, part):
    images = load(name, part=part, samples=20, seed=0)
    assert images.name == name == DATASETS[name].name
    assert images.source == DATASETS[name].source
    assert images.x.shape == (20, 1, 32, 32)
    assert images.x.dtype == torch.float32
    assert images.y is None or images.y.shape == (20,)
    again = load(name, part=part, samples=20, seed=0)
    assert torch.equal(images.x, again.x)
    assert not torch.equal(images.x, load(name, part=part, samples=20, seed=1).x)


def test_sizes_without_samples():
    sizes = {name: len(load(name, seed=0).x) for name in EMBEDDED}
    assert sizes.pop("digits") == 325
    assert sizes.pop("digits-6-9") == 714
    assert set(sizes.values()) == {200}


def test_format_is_passed_on():
    for name in EMBEDDED:
        assert load(name, samples=4, seed=0, channels=3, size=16).x.shape == (4, 3, 16, 16)


def test_the_table_names_every_set_and_says_what_it_is():
    assert set(NAMES.split()) <= set(DATASETS)
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert "test" in entry.parts
        assert len(entry.description) > 8
        assert entry.source
        assert entry.afresh == ("any number" in entry.description)


@pytest.mark.parametrize("name", FILES)
def test_the_lines_of_files_are_no_names(name):
    with pytest.raises(ValueError, match=r"^`.*` must (name a file|name a folder|name an importable module)"):
        load(name, seed=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_asking_for_one_half_of_a_format_leaves_the_other(channels):
    assert load("noise", samples=2, seed=0, channels=channels).x.shape == (2, channels, 32, 32)
    assert load("digits-6-9", samples=2, seed=0, size=16).x.shape == (2, 1, 16, 16)


def test_at_most_takes_what_there_is():
    assert len(load("digits", samples=10**6, seed=0, at_most=True).x) == 325
    some, more = (load("digits", samples=50, seed=0, at_most=at_most) for at_most in (False, True))
    assert torch.equal(some.x, more.x)
    assert len(load("noise", samples=300, seed=0, at_most=True).x) == 300


def test_samples_of_digits_keep_their_labels():
    whole, some = digits("reference"), load("digits", part="reference", samples=50, seed=0)
    rows = [(whole.x == x).flatten(1).all(1).nonzero().item() for x in some.x]
    assert rows == sorted(set(rows))
    assert torch.equal(some.y, whole.y[rows])


WRONG = {
    "misspelt": ({"name": "spiral"}, r"Did you mean 'spirals'\? `name` must be one of digits, .*, got 'spiral'\."),
    "strange": ({"name": "xyz"}, r"`name` must be one of digits, .*pkg.mod:callable, got 'xyz'. Pick one of them."),
    "too many": ({"name": "digits", "samples": 326}, "`samples` must be in 1..325 for `digits`, got 326"),
    "none": ({"name": "noise", "samples": 0}, "`samples` must be >= 1, got 0"),
    "part": ({"name": "digits", "part": "val"}, "`part` must be one of train, test, reference for `digits`, got 'val'"),
    "no parts": ({"name": "noise", "part": "train"}, "`part` must be one of test for `noise`, got 'train'"),
    "file parts": ({"name": "npz:a.npz", "part": "train"}, "`part` must be one of test for `npz:a.npz`, got 'train'"),
    "channels": ({"name": "photos", "channels": 4}, r"`channels` must be 1 \(grey\) or 3 \(RGB\), got 4"),
    "size": ({"name": "digits", "size": 4}, "`size` must be >= 8, got 4"),
    "no file": ({"name": "npz:nowhere.npz"}, "`npz:nowhere.npz` must name a file"),
    "file for code": ({"name": "my.py:f"}, "`my.py:f` must read pkg.mod:name"),
    "path for code": ({"name": "./my:f"}, "`./my:f` must read pkg.mod:name"),
    "no module": ({"name": "no_such_module:f"}, "`no_such_module:f` must name an importable module, got: No module"),
    "no attribute": ({"name": "math:f"}, "`math:f` must name something in math, got no such name"),
    "no callable": ({"name": "math:pi"}, "`math:pi` must be callable, got float"),
    "no protocol": ({"name": "digits", "protocol": "x"}, "`protocol` must be one of keep, .*, got 'x'. Pick one"),
    "no folder": ({"name": "folder:nowhere"}, "`folder:nowhere` must name a folder, got none at nowhere"),
    "folder parts": ({"name": "folder:a", "part": "train"}, "`part` must be one of test for `folder:a`, got 'train'"),
    "folder size": ({"name": "folder:a", "size": 4}, "`size` must be >= 8, got 4"),
    "no set": ({"name": "cifar10"}, r"Did you mean 'cifar-10'\? `name` must be one of digits, .*, got 'cifar10'\."),
    "too many parts": ({"name": "os:times"}, r"`os:times` must return images or \(images, labels\), got a tuple of 5"),
    "no images": ({"name": "os:getcwd"}, "`os:getcwd` must hold uint8 or floating-point images"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**arguments, seed=0)


def test_array_files(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((6, 10, 12, 3), 255, np.uint8), labels=np.arange(6))
    images = load(f"npz:{tmp_path / 'a.npz'}", samples=4, seed=0)
    assert images.x.shape == (4, 3, 10, 12)
    assert images.x.min() == 1
    assert (images.y.diff() > 0).all()


CODE = """
import numpy as np, torch
x = lambda: torch.full((5, 1, 8, 8), 0.5)
bytes_ = lambda: np.zeros((5, 8, 8, 3), np.uint8)
pair = lambda: (torch.full((5, 1, 8, 8), 0.5, requires_grad=True), [0, 1, 2, 3, 4])
hot = lambda: torch.full((5, 1, 8, 8), 2.0)
def own():
    from oodattack.data import Images
    return Images("mine", x(), None, "me")
"""


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "user_data_code.py").write_text(CODE)
    yield "user_data_code"
    sys.modules.pop("user_data_code", None)


def test_user_code_in_the_current_directory(user_code):
    assert load(f"{user_code}:x", seed=0).x.shape == (5, 1, 8, 8)
    assert load(f"{user_code}:bytes_", seed=0).x.shape == (5, 3, 8, 8)
    assert load(f"{user_code}:pair", seed=0).y.tolist() == [0, 1, 2, 3, 4]
    assert load(f"{user_code}:own", seed=0).name == f"{user_code}:own"
    assert len(load(f"{user_code}:x", samples=2, seed=0).x) == 2
    with pytest.raises(ValueError, match=rf"`{user_code}:hot` must be in \[0, 1\], got \[2, 2\]"):
        load(f"{user_code}:hot", seed=0)
