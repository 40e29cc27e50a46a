"""Data sets that torchvision reads, from files that are on disk already: nothing is ever downloaded.

CIFAR is published as pickles, which run code when they are read. torchvision compares the MD5 sum of every file with
the one it knows before it unpickles it, and so nothing but the original gets that far. No other set is unpickled.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from oodattack.data.dataset import Dataset, Opened, Request
from oodattack.data.gather import Pictures, unread
from oodattack.data.missing import home_of, missing

DOWNLOAD = re.compile(r"You \w+ \w+ download=True .*")  # nothing here does


class Shelf(NamedTuple):
    """A set of torchvision.

    Attributes:
        title: class in torchvision.datasets.
        page: its home page.
        expected: part -> a file or folder of it below ROOT, as torchvision lays it out.
        open: (torchvision.datasets, folder, part) -> what `title` makes of it.
        description: what it shows.
        labelled: whether its labels are classes.
        protocol: of pictures of different sizes; see `Dataset`.
    """

    title: str
    page: str
    expected: Mapping[str, str]
    open: Callable[[Any, Path, str], Any]
    description: str
    labelled: bool = True
    protocol: str | None = None


def naturalist(sets: Any, home: Path, part: str) -> Any:
    """INaturalist lists files in the order of the file system: sorted, a seed means the same images everywhere."""
    found = sets.INaturalist(home, version="2021_train" if part == "train" else "2021_valid", download=False)
    found.index.sort()
    return found


SHELVES: dict[str, Shelf] = {
    "cifar-10": Shelf(
        "CIFAR10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {"test": "cifar-10-batches-py/test_batch", "train": "cifar-10-batches-py/data_batch_1"},
        lambda sets, home, part: sets.CIFAR10(home, train=part == "train", download=False),
        "animals and vehicles, 10 classes, 32 x 32 colour, 10000 of 60000",
    ),
    "cifar-100": Shelf(
        "CIFAR100",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {"test": "cifar-100-python/test", "train": "cifar-100-python/train"},
        lambda sets, home, part: sets.CIFAR100(home, train=part == "train", download=False),
        "animals, plants, things and places, 100 classes, 32 x 32 colour, 10000 of 60000",
    ),
    "svhn": Shelf(
        "SVHN",
        "http://ufldl.stanford.edu/housenumbers/",
        {"test": "test_32x32.mat", "train": "train_32x32.mat", "extra": "extra_32x32.mat"},
        lambda sets, home, part: sets.SVHN(home, split=part, download=False),
        "house numbers, 32 x 32 colour, 26032 of 99289",
    ),
    "stl10": Shelf(
        "STL10",
        "https://cs.stanford.edu/~acoates/stl10/",
        {"test": "stl10_binary/test_X.bin", "train": "stl10_binary/train_X.bin"},
        lambda sets, home, part: sets.STL10(home, split=part, download=False),
        "animals and vehicles, 10 classes, 96 x 96 colour, 8000 of 13000",
    ),
    "dtd": Shelf(
        "DTD",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        {"test": "dtd/dtd/images", "train": "dtd/dtd/images", "val": "dtd/dtd/images"},
        lambda sets, home, part: sets.DTD(home, split=part, download=False),
        "47 classes of textures, partition 1, 1880 a part; `textures` is all of them",
        protocol="resize-256-crop-224",
    ),
    "gtsrb": Shelf(
        "GTSRB",
        "https://benchmark.ini.rub.de/",
        {"test": "gtsrb/GTSRB/Final_Test/Images", "train": "gtsrb/GTSRB/Training"},
        lambda sets, home, part: sets.GTSRB(home, split=part, download=False),
        "German traffic signs, 43 classes, 12630 of 39270",
        protocol="resize-32x32",
    ),
    "places365": Shelf(
        "Places365",
        "http://places2.csail.mit.edu/index.html",
        {"test": "test_256", "train": "data_256_standard", "val": "val_256"},
        lambda sets, home, part: sets.Places365(
            home, split="train-standard" if part == "train" else part, small=True, download=False
        ),
        "365 kinds of places, 256 x 256, 328500 test pictures without labels",
    ),
    "inaturalist": Shelf(
        "INaturalist",
        "https://github.com/visipedia/inat_comp",
        {"test": "2021_valid", "train": "2021_train"},
        naturalist,
        "species of 2021, 100000 validation pictures; `inaturalist-mos` is what the OOD literature uses",
        protocol="resize-256-crop-224",
    ),
    "celeba": Shelf(
        "CelebA",
        "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        {part: "celeba/img_align_celeba" for part in ("test", "train", "valid")},
        lambda sets, home, part: sets.CelebA(home, split=part, download=False),
        "faces, 178 x 218 colour, 19962 of 202599; no classes",
        labelled=False,
    ),
}


def row(name: str) -> Dataset:
    """The line of the registry."""
    shelf = SHELVES[name]
    return Dataset(
        name,
        f"torchvision {shelf.title}",
        shelf.description,
        lambda ask: load(name, ask),
        tuple(shelf.expected),
        own_format=True,
        protocol=shelf.protocol,
    )


def load(name: str, ask: Request) -> Opened:
    """Let torchvision open a part below --data-root, in ROOT or ROOT/NAME.

    Raises:
        ValueError: it is not there, or torchvision finds it broken.
    """
    from torchvision import datasets as sets

    shelf, title = SHELVES[name], f"torchvision.datasets.{SHELVES[name].title}"
    home = home_of(name, shelf.expected[ask.part], ask.root)
    if home is None:
        raise missing(name, title, shelf.page, shelf.expected[ask.part], ask.root)
    try:
        found = shelf.open(sets, home, ask.part)
    except (OSError, RuntimeError, ValueError, LookupError, ImportError) as error:
        reason = DOWNLOAD.sub("", " ".join(str(error).split())).rstrip(". ")
        raise ValueError(
            f"`{name}` must be whole in {home}, got: {reason}. Download {title} ({shelf.page}) there once more."
        ) from error

    def read(number: int) -> tuple[Any, int | None]:
        picture, label = found[number]
        return picture, int(label) if shelf.labelled and label is not None else None

    return unread(Pictures(name, f"torchvision {shelf.title}, {ask.part}", len(found), read))
