"""MNIST and its relatives, in the idx files that their authors published, packed or not."""

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oodattack.data.dataset import Dataset, Opened, Request
from oodattack.data.gather import Pictures, unread
from oodattack.data.missing import missing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist


class Family(NamedTuple):
    """Where a relative of MNIST lies: the names of torchvision, the beginning of its file names, by part."""

    title: str
    page: str
    train: str
    test: str
    description: str
    first: int = 0  # label of the first class in the files


FAMILIES: dict[str, Family] = {
    "mnist": Family(
        "MNIST",
        "http://yann.lecun.com/exdb/mnist/",
        "train",
        "t10k",
        "handwritten digits, 28 x 28 grey, 10000 of 70000",
    ),
    "fashion-mnist": Family(
        "FashionMNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        "train",
        "t10k",
        "articles of clothing, 28 x 28 grey, 10000 of 70000; also Debian's dataset-fashion-mnist",
    ),
    "kmnist": Family(
        "KMNIST",
        "https://github.com/rois-codh/kmnist",
        "train",
        "t10k",
        "cursive Japanese, 28 x 28 grey, 10000 of 70000",
    ),
    "emnist": Family(
        "EMNIST",
        "https://www.westernsydney.edu.au/bens/home/reproducible_research/emnist",
        "emnist-balanced-train",
        "emnist-balanced-test",
        "handwritten digits and letters, balanced split, 28 x 28 grey, transposed as published",
    ),
    "emnist-letters": Family(
        "EMNIST",
        "https://www.westernsydney.edu.au/bens/home/reproducible_research/emnist",
        "emnist-letters-train",
        "emnist-letters-test",
        "handwritten letters only, 28 x 28 grey, transposed as published",
        first=1,
    ),
}


def row(name: str) -> Dataset:
    """The line of the registry."""
    family = FAMILIES[name]
    source = f"torchvision {family.title}"
    return Dataset(name, source, family.description, lambda ask: load(name, ask), ("test", "train"), own_format=True)


def load(name: str, ask: Request) -> Opened:
    """Open images and labels of a part.

    They are looked for in ROOT/TITLE/raw, where torchvision puts them, ROOT/NAME/TITLE/raw, ROOT/NAME, ROOT itself if
    it is called NAME, and `fashion-mnist` in Debian's folder, packed with gzip or not.

    Raises:
        ValueError: they are in none of these places, or broken.
    """
    import numpy as np
    from PIL import Image

    family = FAMILIES[name]
    raw, start = Path(family.title, "raw"), family.train if ask.part == "train" else family.test
    expected = f"{start}-images-idx3-ubyte"
    places = [] if ask.root is None else [ask.root / raw, ask.root / name / raw, ask.root / name]
    places += [ask.root] if ask.root is not None and ask.root.name == name else []
    places += [DEBIAN] if name == "fashion-mnist" else []
    files = [file for place in places for file in (place / expected, place / f"{expected}.gz") if file.is_file()]
    if not files:
        raise missing(name, f"torchvision.datasets.{family.title}", family.page, str(raw / expected), ask.root)
    x = read_idx(files[0], axes=3)
    y = read_idx(files[0].with_name(files[0].name.replace("images-idx3", "labels-idx1")), axes=1)
    if len(x) != len(y):
        raise ValueError(f"`{name}` must have a label an image, got {len(y)} for {len(x)}. Download it again.")

    def read(number: int) -> "tuple[Image.Image, int | None]":
        return Image.fromarray(np.asarray(x[number])), int(y[number]) - family.first

    return unread(Pictures(name, f"torchvision {family.title}, {ask.part}", len(x), read))


def read_idx(path: Path, *, axes: int) -> "NDArray[Any]":
    """Bytes in the idx format: 0, 0, 8, number of axes, every size as 4 bytes, big end first; then the values.

    Args:
        path: the file, packed with gzip if it ends in .gz. Others are mapped, not read.
        axes: how many there must be.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        ValueError: the file is missing, packed wrongly, of another kind or length.
    """
    import numpy as np

    try:
        packed = path.suffix == ".gz"
        data = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8) if packed else np.memmap(path, np.uint8, "r")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`{path}` must be a whole idx file, got: {reason}. Download it again.") from error
    start = 4 + 4 * axes
    if data[:4].tolist() != [0, 0, 8, axes] or len(data) < start:
        raise ValueError(
            f"`{path}` must be an idx file of bytes with {axes} axes, got another kind. Download it again."
        )
    shape = np.frombuffer(data[4:start].tobytes(), ">u4").tolist()
    if len(data) != start + int(np.prod(shape, dtype=object)):
        raise ValueError(
            f"`{path}` must be as long as its shape {shape} says, got {len(data)} bytes. Download it again."
        )
    return data[start:].reshape(shape)
