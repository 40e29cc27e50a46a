"""Files that are whole or not there, and their hashes."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from oodattack.detector import Classifier


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network, without the `Classifier` around it; a copy on the CPU."""
    inner = network.network if isinstance(network, Classifier) else network
    return {key: value.detach().cpu().clone().contiguous() for key, value in inner.state_dict().items()}


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of a .safetensors file; equal tensors give equal bytes."""
    from safetensors.torch import save

    return save(dict(tensors))


def sha256(content: bytes) -> str:
    """Of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: nobody ever reads half a file, whenever the power goes.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
