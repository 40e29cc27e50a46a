"""Hashes and versions: what it takes to know that two runs measured the same thing."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oodattack import __version__
from oodattack.report import Source

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def sha256_of_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(t.view(-1).view(torch.uint8).numpy().tobytes())  # as bytes, since numpy has no bfloat16
    return digest.hexdigest()


def sha256_of(detector: object) -> str:
    """SHA-256 of the weights behind a detector: its network's where it has one; "" where nothing can be hashed."""
    module = getattr(detector, "net", detector)
    return sha256_of_tensors(dict(module.state_dict())) if isinstance(module, nn.Module) else ""


class Provenance(NamedTuple):
    """What only the caller of `evaluate` knows, for the report's `spec`.

    Attributes:
        command: the command line.
        samples: images per set that were asked for.
        id_accuracy: network -> accuracy on held-out ID images.
        sources: "id", "targets" or OOD set -> (name, where it comes from).
    """

    command: str | None = None
    samples: int | None = None
    id_accuracy: Mapping[str, float] = MappingProxyType({})
    sources: Mapping[str, tuple[str, str]] = MappingProxyType({})

    def source(self, key: str, x: Tensor) -> Source:
        """A data set's entry in the report."""
        name, source = self.sources.get(key, (key, "given as a tensor"))
        return Source(name=name, n=len(x), sha256=sha256_of_tensors({"images": x}), source=source)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    own = {"python": platform.python_version(), "oodattack": __version__}
    return {**own, **{name: version(name) for name in PACKAGES}}
