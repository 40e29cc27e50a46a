"""Room for images on disk, so that memory does not grow with the number of rows."""

import math
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SMALL = 1 << 24  # bytes that may as well be in memory


def mapped_like(like: Tensor, folder: Path) -> Tensor:
    """A tensor of the shape, type and device of `like`, not initialised; large ones on the CPU are mapped from a file.

    The file has no name any more when this returns: its space is free again when the tensor is gone, or the process.

    Raises:
        ValueError: there is not enough space.
    """
    size = math.prod(like.shape) * like.element_size()
    if size < SMALL or like.device.type != "cpu":
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)
    try:
        number, name = tempfile.mkstemp(dir=folder)
    except OSError as error:
        raise ValueError(f"{folder}: must be a folder to write in, got {error.strerror}. Check it.") from None
    try:
        reserve(number, size)
        flat = torch.from_file(name, shared=True, size=math.prod(like.shape), dtype=like.dtype)
    except OSError as error:
        raise ValueError(
            f"{folder}: must have {size / 2**20:.0f} MiB of space left, got {error.strerror}. Make room."
        ) from None
    finally:
        os.close(number)
        os.unlink(name)
    return flat.view(like.shape)


def reserve(number: int, size: int) -> None:
    """Make an open file that long, with its space set aside where the system can: no write may fail later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(number, 0, size)
    else:
        os.truncate(number, size)
