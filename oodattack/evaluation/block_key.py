"""The name of a block of a search: a hash of everything that decides what comes out of it."""

import hashlib
import json
from collections.abc import Iterable

from torch import Tensor

from oodattack.identity import bytes_of


def block_key(words: dict[str, object], tensors: Iterable[Tensor | None]) -> str:
    """SHA-256 over words and over the type, shape and bytes of tensors; None is another thing than an empty tensor."""
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(b"\nnone" if tensor is None else f"\n{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor is not None and tensor.numel():
            digest.update(bytes_of(tensor.cpu().contiguous()))
    return digest.hexdigest()


def block_seed(seed: int, key: str, row: int) -> int:
    """Seed of PyTorch's own random numbers within a block: other libraries' attacks and random detectors use them."""
    name = f"{seed} {row} {key} block".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
