"""Images on disk: room that memory does not pay for, and arrays that are read piece by piece.

A mapped file costs memory for the pages that were touched and are not forgotten yet. Whoever goes through many images
takes `AT_ONCE` of them at a time and calls `forget_pages` in between: what was written is in the file, and what is
needed again is read again.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor

Room = Callable[[Tensor], Tensor]  # images -> room for as many of their shape, type and device, not initialised

AT_ONCE = 256  # images
PREFIX = "room-for-images-"  # of files that a kill may leave
SMALL = 1 << 24  # bytes that may as well be in memory

_MAPS: "WeakSet[mmap.mmap]" = WeakSet()


def room_on_disk(like: Tensor, folder: Path) -> Tensor:
    """A tensor of the shape, type and device of `like`, not initialised; large ones on the CPU are mapped from a file.

    The file has no name any more when this returns: its space is free again when the tensor is gone, or the process.

    Raises:
        ValueError: there is not enough space.
    """
    size = math.prod(like.shape) * like.element_size()
    if size < SMALL or like.device.type != "cpu":
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)
    try:
        number, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        os.unlink(name)
    except OSError as error:
        raise ValueError(f"{folder}: must be a folder to write in, got {error.strerror}. Check it.") from None
    try:
        reserve(number, size)
        pages = mmap.mmap(number, size)
    except OSError as error:
        raise ValueError(
            f"{folder}: must have {size / 2**20:.0f} MiB of space left, got {error.strerror}. Make room."
        ) from None
    finally:
        os.close(number)
    watch(pages)
    return torch.frombuffer(pages, dtype=like.dtype).view(like.shape)


def reserve(number: int, size: int) -> None:
    """Make an open file that long, with its space set aside where the system can: no write may fail later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(number, 0, size)
    else:
        os.truncate(number, size)


def watch(pages: mmap.mmap) -> None:
    """Let `forget_pages` forget these too."""
    _MAPS.add(pages)


def forget_pages() -> None:
    """Give back the memory of all mapped images; they stay on disk, and in the system's cache as long as it likes."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for pages in list(_MAPS):
            pages.madvise(mmap.MADV_DONTNEED)


def pieces(n: int) -> Iterator[slice]:
    """Rows 0..n-1, `AT_ONCE` at a time; pages are forgotten after each."""
    for first in range(0, n, AT_ONCE):
        yield slice(first, min(first + AT_ONCE, n))
        forget_pages()


def blocks(x: Tensor) -> Iterator[Tensor]:
    """`x`, `AT_ONCE` rows at a time."""
    for rows in pieces(len(x)):
        yield x[rows]


def placed(part: Tensor, rows: slice, n: int, out: Tensor | None) -> Tensor:
    """A part as rows of n: put into `out`, or into new room where it is the first.

    A list of small parts, each behind the large tensors that made it, would keep memory from being used again.
    """
    out = part.new_empty((n, *part.shape[1:])) if out is None else out
    out[rows] = part
    return out


def gathered(n: int, work: Callable[[slice], Tensor]) -> Tensor:
    """work(rows) over rows 0..n-1 as one tensor, n >= 1."""
    out: Tensor | None = None
    for rows in pieces(n):
        out = placed(work(rows), rows, n, out)
    assert out is not None
    return out


def copied(x: Tensor, room: Room) -> Tensor:
    """A copy of `x` in room of its own."""
    return written(x, room(x))


def moved(x: Tensor, device: torch.device, dtype: torch.dtype, room: Room) -> Tensor:
    """`x` itself where it is on that device in that precision, else a copy there, in room of its own."""
    if (x.device, x.dtype) == (device, dtype):
        return x
    return written(x, room(torch.empty((), device=device, dtype=dtype).expand(x.shape)))


def written(x: Tensor, out: Tensor) -> Tensor:
    """`out`, after `x` was put into it, on whatever device and in whatever precision it is."""
    for rows in pieces(len(x)):
        out[rows] = x[rows]
    return out


def picked(x: Tensor, rows: Tensor, room: Room) -> Tensor:
    """`x[rows]` in room of its own.

    Args:
        x: images, shape (N, C, H, W).
        rows: int64, shape (n,), any device.
        room: where to put them.
    """
    rows = rows.to(x.device)
    out = room(x.new_empty(()).expand(len(rows), *x.shape[1:]))
    for part in pieces(len(rows)):
        out[part] = x[rows[part]]
    return out


def put(x: Tensor, rows: Tensor, images: Tensor, which: Tensor) -> None:
    """`x[rows[which]] = images[which]`, in place.

    Args:
        x: images, shape (N, C, H, W).
        rows: places in `x`, int64, shape (n,).
        images: shape (n, C, H, W).
        which: those that are written, bool, shape (n,).
    """
    chosen = which.nonzero().flatten()
    for part in pieces(len(chosen)):
        own = chosen[part]
        x[rows[own].to(x.device)] = images[own.to(images.device)]
