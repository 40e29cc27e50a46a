"""Scenes: Yu et al., "LSUN", 2015, arXiv:1506.03365, in the LMDB folders that its authors published."""

import importlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodattack.data.dataset import Dataset, Opened, Request
from oodattack.data.gather import Pictures, unread
from oodattack.data.missing import home_of, missing

if TYPE_CHECKING:
    from PIL.Image import Image

PAGE = "https://www.yf.io/p/lsun"
SCENES = (
    "bedroom", "bridge", "church_outdoor", "classroom", "conference_room",
    "dining_room", "kitchen", "living_room", "restaurant", "tower",
)  # fmt: skip
FOLDERS = {
    "test": ("test_lmdb",),
    "val": tuple(f"{scene}_val_lmdb" for scene in SCENES),
    "train": tuple(f"{scene}_train_lmdb" for scene in SCENES),
}


def row() -> Dataset:
    """The line of the registry."""
    description = "10 kinds of scenes, 10000 test pictures without labels; needs the package lmdb"
    return Dataset(
        "lsun",
        "LSUN, arXiv:1506.03365",
        description,
        load,
        tuple(FOLDERS),
        own_format=True,
        protocol="resize-256-crop-224",
    )


def load(ask: Request) -> Opened:
    """List the keys of a part; labels are the places of the scenes in the alphabet, none for "test".

    Differs from torchvision's LSUN: no list of keys is kept in the current directory, where it would be a pickle.

    Raises:
        ValueError: a folder is not in ROOT or ROOT/lsun, is broken, or the package lmdb is not installed.
    """
    names = FOLDERS[ask.part]
    homes = [home_of("lsun", name, ask.root) for name in names]
    for name, home in zip(names, homes, strict=True):
        if home is None:
            raise missing("lsun", "torchvision.datasets.LSUN", PAGE, name, ask.root)
    found = [open_folder(Path(home, name)) for name, home in zip(names, homes, strict=True) if home is not None]
    rows = [(label, key) for label, (_, keys) in enumerate(found) for key in keys]

    def read(number: int) -> "tuple[Image, int | None]":
        from PIL import Image

        label, key = rows[number]
        with found[label][0].begin(write=False) as transaction:
            picture = Image.open(io.BytesIO(transaction.get(key)))
        return picture, None if ask.part == "test" else label

    return unread(Pictures("lsun", f"LSUN, {ask.part}", len(rows), read))


def open_folder(folder: Path) -> tuple[Any, list[bytes]]:
    """The database in a folder, and its keys in order.

    Raises:
        ValueError: it is broken, or the package lmdb is not installed.
    """
    try:
        lmdb = importlib.import_module("lmdb")
    except ModuleNotFoundError as error:
        raise ValueError(
            "`lsun` must be read with the package lmdb, got none. Install it: pip install lmdb."
        ) from error
    try:
        found = lmdb.open(str(folder), max_readers=1, readonly=True, lock=False, readahead=False, meminit=False)
        with found.begin(write=False) as transaction:
            return found, list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise ValueError(f"`lsun` must be whole in {folder}, got: {error}. Download it again.") from error
