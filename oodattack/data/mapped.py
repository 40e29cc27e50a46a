"""Arrays of .npy files and .npz archives, left on disk where they are large and were not compressed."""

import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodattack.data.disk import watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\x93NUMPY"
LARGE = 2**26  # bytes; smaller arrays are read as a whole, which checks their CRC


def map_array(path: Path, key: str) -> "NDArray[Any] | None":
    """The array `key` of `path` as a read-only memory map; its CRC is not checked then.

    An .npz archive is a zip file of .npy files: local header of 30 bytes and two texts, then the .npy header, then the
    values as they are in memory.

    Returns:
        None where the array is smaller than `LARGE`, compressed, or of a kind that cannot be mapped.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: the archive is broken.
    """
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < LARGE:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30))
        start = member.header_offset + 30 + name + extra
        file.seek(start)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
            np.lib.format.read_magic(file)
        )
        if header is None:
            return None
        shape, fortran, dtype = header(file)
        offset = file.tell()
    if dtype.hasobject:
        return None
    if offset + dtype.itemsize * int(np.prod(shape, dtype=object)) != start + member.file_size:
        raise ValueError(f"{key}.npy is not as long as its shape {shape} says")
    return watched(np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C"))


def is_npy(path: Path) -> bool:
    """Whether a file says of itself that it is one array of NumPy's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def map_npy(path: Path) -> "NDArray[Any]":
    """The array of an .npy file, as a read-only memory map.

    Raises:
        OSError, ValueError: the file is broken, or holds objects.
    """
    import numpy as np

    return watched(np.load(path, mmap_mode="r", allow_pickle=False))


def watched(found: "NDArray[Any]") -> "NDArray[Any]":
    """The same array, whose pages `forget_pages` may take back from now on."""
    if (pages := getattr(found, "_mmap", None)) is not None:
        watch(pages)
    return found
