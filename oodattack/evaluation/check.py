"""What is asked of images and seeds before any work is done."""

import hashlib
from collections.abc import Iterator, Mapping, Set
from numbers import Integral

from torch import Tensor

from oodattack import data
from oodattack.data.disk import blocks
from oodattack.identity import bytes_of


def checked_seed(seed: object) -> int:
    """The seed as an int; ValueError unless it is a whole number that a random generator takes."""
    if not isinstance(seed, Integral):
        raise ValueError(f"`seed` must be a whole number, got {seed!r}. Write 0.")
    if not 0 <= int(seed) < 2**63:
        raise ValueError(f"`seed` must be in [0, 2^63), got {seed}. Write 0.")
    return int(seed)


def check_named(what: str, of: str, named: object) -> None:
    """Raise ValueError unless an argument is a mapping of names to things of its kind."""
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"`{what}` must be {of} by name, got {type(named).__name__}. Write {{'name': {of}}}.")


def check_images(x: Tensor, name: str, *, like: Tensor) -> None:
    """Raise ValueError unless `x` is a non-empty float batch in [0, 1] with the channels and size of `like`."""
    if not isinstance(x, Tensor):
        scale = " / 255" if str(getattr(x, "dtype", "")) == "uint8" else ""
        remedy = f"Write torch.from_numpy(x).float(){scale}." if hasattr(x, "__array__") else "Convert it."
        kinds = "a tensor of images (N, C, H, W), a DataLoader or a Dataset"
        raise ValueError(f"`{name}` must be {kinds}, got {type(x).__name__}. {remedy}")
    data.check_images(x, name)
    if x.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"`{name}` must have the shape of the ID images, {tuple(like.shape[1:])}, got {tuple(x.shape[1:])}. "
            "Resize them, or change the number of channels."
        )


def check_disjoint(x: Tensor, name: str, mine: Set[bytes]) -> None:
    """Raise ValueError if more than one in a hundred images of `x` have a digest of an evaluated ID image."""
    shared = sum(digest in mine for digest in exact_digests(x))
    if shared > 0.01 * len(x):
        raise ValueError(f"`{name}` must be disjoint from the ID images, got {shared} of {len(x)} in both. Split them.")


def exact_digests(x: Tensor) -> Iterator[bytes]:
    """128-bit BLAKE2b digest of every image, of all bits of its values."""
    for block in blocks(x):
        for row in block.cpu().contiguous():
            yield hashlib.blake2b(bytes_of(row), digest_size=16).digest()
