"""Hashes and versions: what it takes to know that two runs measured the same thing."""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from oodattack import __version__

ROWS = 1024  # hashed at a time
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def sha256_of_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes, in order of names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        found.update(bytes_of(t))
    return found.hexdigest()


def digest(tensor: Tensor) -> str:
    """SHA-256 over type, shape and bytes of one tensor, some rows at a time."""
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    rows = tensor.detach().split(ROWS) if tensor.ndim and tensor.numel() else [tensor.detach()]
    for part in rows:
        found.update(bytes_of(part.cpu().contiguous()))
    return found.hexdigest()


def sha256_of_images(n: int, blocks: Iterable[Tensor]) -> str:
    """What `sha256_of_tensors` says of {"images": x}, from the n images of x block by block."""
    found = hashlib.sha256()
    for i, block in enumerate(blocks):
        if i == 0:
            found.update(f"images {block.dtype} {(n, *block.shape[1:])}\n".encode())
        found.update(bytes_of(block.cpu().contiguous()))
    return found.hexdigest()


def bytes_of(t: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU; numpy has no bfloat16."""
    return t.detach().view(-1).view(torch.uint8).numpy().data


def sha256_of(detector: object) -> str:
    """SHA-256 of the weights behind a detector: its network's where it has one; "" where nothing can be hashed."""
    return sha256_of_module(behind(detector))


def behind(detector: object) -> object:
    """What a detector stands on: its network, or itself."""
    return getattr(detector, "net", detector)


def sha256_of_module(module: object) -> str:
    """SHA-256 of its weights; "" for what is no module."""
    return sha256_of_tensors(dict(module.state_dict())) if isinstance(module, nn.Module) else ""


def sha256_of_each(detectors: Mapping[str, object]) -> dict[str, str]:
    """`sha256_of` by detector; a network behind several is hashed once."""
    modules = {name: behind(detector) for name, detector in detectors.items()}
    hashed = {key: sha256_of_module(module) for key, module in {id(m): m for m in modules.values()}.items()}
    return {name: hashed[id(module)] for name, module in modules.items()}


def sha256_of_networks(detectors: Mapping[str, object]) -> dict[str, str]:
    """`sha256_of` by network: NETWORK of a detector's name DETECTOR@NETWORK, or the whole name.

    A network is the same with its outlier class or without, and inside a detector that does not say which of its parts
    is the network; a function says nothing of the one it stands on.

    Raises:
        ValueError: detectors of one network's name stand on different ones.
    """
    found: dict[str, str] = {}
    first: dict[str, str] = {}  # network -> a detector on it
    for name, digest in sha256_of_each(detectors).items():
        network = name.partition("@")[2] or name
        if not digest:
            found.setdefault(network, digest)
            continue
        other = first.setdefault(network, name)
        changed = digest != (found.get(network) or digest)
        if changed and not alike(detectors[other], detectors[name]):
            raise ValueError(
                f"`detector` must have one network called {network!r}, got other weights behind {other!r} and "
                f"{name!r}. Name them apart after the @."
            )
        found[network] = digest
    return found


def same_network(a: object, b: object) -> bool:
    """Whether one has all tensors of the other, but for last rows: with more around it, or without an outlier class."""
    mine, other = (list(m.state_dict().values()) if isinstance(m, nn.Module) else [] for m in (a, b))
    return all(any(begin_alike(t, u) for u in other) for t in mine) or all(
        any(begin_alike(t, u) for u in mine) for t in other
    )


def alike(a: object, b: object) -> bool:
    """Whether two detectors may stand on one network; of two that do not say which part it is, each may have more."""
    unsaid = not (hasattr(a, "net") or hasattr(b, "net"))
    return same_network(behind(a), behind(b)) or (unsaid and same_parts(a, b))


def same_parts(a: object, b: object) -> bool:
    """Whether two modules, each with something of its own, share tensors by name, and those are equal."""
    mine, other = (dict(m.state_dict()) if isinstance(m, nn.Module) else {} for m in (a, b))
    both = mine.keys() & other.keys()
    return bool(both) and all(begin_alike(mine[name], other[name]) for name in both)


def begin_alike(a: Tensor, b: Tensor) -> bool:
    """Whether as many rows as both have are equal; a number is one row."""
    a, b = torch.atleast_1d(a), torch.atleast_1d(b)
    n = min(len(a), len(b))
    return a.dtype == b.dtype and a.shape[1:] == b.shape[1:] and torch.equal(a[:n].cpu(), b[:n].cpu())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    own = {"python": platform.python_version(), "oodattack": __version__}
    return {**own, **{name: version(name) for name in PACKAGES}}


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file, read piece by piece.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: must be a file that can be read, got {error.strerror}. Check the path.") from None
