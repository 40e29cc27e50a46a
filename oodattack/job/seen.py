"""Which images a network has learnt from: their digests, in a file beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from oodattack.data.overlap import SIZE
from oodattack.lookup import summary
from oodattack.train.files import sha256, tensor_bytes
from oodattack.whole_file import replace_file

SUFFIX = ".digests"  # in place of that of the weights; a file of safetensors
REMEDY = "Remove it; images in common stay unknown then."
Seen = dict[str, set[bytes]]  # such as "the training images" -> see `overlap.digests`


def write_seen(weights: Path, seen: Mapping[str, set[bytes]]) -> str:
    """Write the file beside weights; returns its SHA-256, for their record.

    Raises:
        OSError: it cannot be written.
    """
    rows = {name: torch.tensor([list(row) for row in sorted(found)], dtype=torch.uint8) for name, found in seen.items()}
    content = tensor_bytes(rows)
    replace_file(weights.with_suffix(SUFFIX), content)
    return sha256(content)


def read_seen(weights: Path, record: Mapping[str, Any] | None) -> Seen:
    """What the network of these weights has learnt from, as far as is known.

    Args:
        weights: of the file.
        record: beside it, see `checked_record`; None where there is none.

    Raises:
        ValueError: the file is not the one that the record names.
    """
    from safetensors.torch import load

    path = weights.with_suffix(SUFFIX)
    if record is None or "seen" not in record or not path.exists():
        return {}
    try:
        content = path.read_bytes()
        rows = sorted(load(content).items())
        found = {name: {bytes(row) for row in digests.view(-1, SIZE).tolist()} for name, digests in rows}
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise ValueError(f"{path}: must hold digests of images, got {summary(error)}. {REMEDY}") from None
    if sha256(content) != record["seen"]:
        raise ValueError(f"{path}: must have the SHA-256 of the record beside it, got another. {REMEDY}")
    return found
