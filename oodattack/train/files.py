"""What identifies a network: weights as bytes, the code behind them, and their hashes."""

import hashlib
import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor, nn

from oodattack.classifier import inner


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network, without the `Classifier` around it; a copy on the CPU."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in inner(network).state_dict().items()}


def architecture(network: nn.Module) -> str:
    """sha256 of what a network prints and of the files that its modules are defined in, torch's aside.

    Weights of the same shapes do not make two networks the same: an activation may be another, or user code may have
    been edited. What these files import is not looked at.
    """
    bare = inner(network)
    kinds = {type(module) for module in bare.modules() if type(module).__module__.partition(".")[0] != "torch"}
    found = [re.sub(r"0x[0-9a-fA-F]+", "", repr(bare)).encode()]  # no addresses
    for kind in kinds:
        with suppress(OSError, TypeError):  # a class of an interactive session has no file
            found.append(Path(inspect.getfile(kind)).read_bytes())
    return sha256(b"".join(sorted(set(found))))


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of a .safetensors file; equal tensors give equal bytes."""
    from safetensors.torch import save

    return save(dict(tensors))


def sha256(content: bytes) -> str:
    """Of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
