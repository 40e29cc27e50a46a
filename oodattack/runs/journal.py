"""Finished blocks of searches as files: read again where their hash is right, computed again where it is not."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from oodattack.attack import Found
from oodattack.whole_file import write_file

HASH = 64  # hexadecimal digits of SHA-256


class Journal:
    """A folder of blocks, each named by the hash of everything that decides it.

    Attributes:
        folder: made if missing.
        plan: SHA-256 of the plan; blocks of another plan have other names.
    """

    def __init__(self, folder: Path, plan: str) -> None:
        self.folder, self.plan = folder, plan
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder}: must be a folder to write in, got {error.strerror}. Check it.") from None

    def path(self, key: str) -> Path:
        """The file of a block."""
        return self.folder / f"{hashlib.sha256(f'{self.plan} {key}'.encode()).hexdigest()}.block"

    def read(self, key: str) -> Found | None:
        """The block of that name; None where there is none, or where the file is not as it was written."""
        from safetensors.torch import load

        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"{path}: must be a file that can be read, got {error.strerror}. Check it.") from None
        if data[:HASH] != seal(path.stem, data[HASH:]):
            return None
        tensors = load(data[HASH:])
        return Found(**{name: tensors.get(name) for name in Found._fields})  # type: ignore[arg-type]

    def write(self, key: str, found: Found) -> None:
        """Keep a block: whoever looks sees all of it or nothing.

        Raises:
            ValueError: the file cannot be written.
        """
        from safetensors.torch import save

        parts: dict[str, Tensor | None] = found._asdict()
        data = save({name: torch.clone(t.cpu()).contiguous() for name, t in parts.items() if t is not None})
        path = self.path(key)
        write_file(path, seal(path.stem, data) + data)


def seal(name: str, data: bytes) -> bytes:
    """What the first bytes of a file must be: a hash of its name and of all that follows."""
    return hashlib.sha256(name.encode() + data).hexdigest().encode()
