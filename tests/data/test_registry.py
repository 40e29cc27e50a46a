import sys

import numpy as np
import pytest
import torch

from oodattack.data import DATASETS, load
from oodattack.data.digits import digits

SETS = [(name, part) for name, entry in DATASETS.items() for part in entry.parts]


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
    sizes = {name: len(load(name, seed=0).x) for name in DATASETS}
    assert sizes.pop("digits") == 325
    assert sizes.pop("digits-6-9") == 714
    assert set(sizes.values()) == {200}


def test_format_is_passed_on():
    for name in DATASETS:
        assert load(name, samples=4, seed=0, channels=3, size=16).x.shape == (4, 3, 16, 16)


def test_samples_of_digits_keep_their_labels():
    whole, some = digits("reference"), load("digits", part="reference", samples=50, seed=0)
    rows = [(whole.x == x).flatten(1).all(1).nonzero().item() for x in some.x]
    assert rows == sorted(set(rows))
    assert torch.equal(some.y, whole.y[rows])


WRONG = {
    "misspelt": ({"name": "spiral"}, r"`name` must be one of digits, .*, got 'spiral'. Did you mean 'spirals'\?"),
    "strange": ({"name": "xyz"}, r"`name` must be one of digits, .*pkg.mod:callable, got 'xyz'. Pick one of them."),
    "too many": ({"name": "digits", "samples": 326}, "`samples` must be in 1..325 for `digits`, got 326"),
    "none": ({"name": "noise", "samples": 0}, "`samples` must be >= 1, got 0"),
    "part": ({"name": "digits", "part": "val"}, "`part` must be one of train, test, reference for `digits`, got 'val'"),
    "no parts": ({"name": "noise", "part": "train"}, "`part` must be one of test for `noise`, got 'train'"),
    "file parts": ({"name": "npz:a.npz", "part": "train"}, "`part` must be one of test for `npz:a.npz`, got 'train'"),
    "channels": ({"name": "photos", "channels": 4}, r"`channels` must be 1 \(grey\) or 3 \(RGB\), got 4"),
    "size": ({"name": "digits", "size": 4}, "`size` must be >= 8, got 4"),
    "no file": ({"name": "npz:nowhere.npz"}, "`npz:nowhere.npz` must name a file"),
    "file for code": ({"name": "my.py:f"}, "`my.py:f` must name an importable module"),
    "path for code": ({"name": "./my:f"}, "`./my:f` must read pkg.mod:name"),
    "no module": ({"name": "no_such_module:f"}, "`no_such_module:f` must name an importable module, got: No module"),
    "no attribute": ({"name": "math:f"}, "`math:f` must name something in math, got no such name"),
    "no callable": ({"name": "math:pi"}, "`math:pi` must be callable, got float"),
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
