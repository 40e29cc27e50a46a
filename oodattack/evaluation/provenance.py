"""Hashes and versions: what it takes to know that two runs measured the same thing."""

import hashlib
import platform
from importlib.metadata import version

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


def source_of(name: str, x: Tensor, *, source: str = "given as a tensor") -> Source:
    """A data set's entry in the report."""
    return Source(name=name, n=len(x), sha256=sha256_of_tensors({"images": x}), source=source)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    own = {"python": platform.python_version(), "oodattack": __version__}
    return {**own, **{name: version(name) for name in PACKAGES}}
