"""Arrays from an .npz file, or from user code, as images in [0, 1]."""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oodattack.data.images import Images, check_images

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_npz(path: str | Path) -> Images:
    """The array `images` of an .npz file, or its only array besides `labels`; layout as `to_images`.

    Args:
        path: the file. Nothing in it is ever unpickled.

    Returns:
        Images named `npz:PATH`, with labels where the file has `labels`.

    Raises:
        ValueError: the file is missing, no .npz, holds objects, or holds no images; the message starts with its path.
    """
    import numpy as np

    name, file = f"npz:{path}", Path(path).expanduser()
    if not file.exists():
        raise ValueError(f"`{name}` must name a file, got none there. Check the path.")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"`{name}` must be an .npz archive, got another kind of file. Write it with np.savez.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            keys = [key for key in archive.files if key != "labels"]
            chosen = "images" if "images" in keys else keys[0] if len(keys) == 1 else None
            x = archive[chosen] if chosen else None
            y = archive["labels"] if "labels" in archive.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`{name}` must hold plain, whole arrays, got: {reason}. Write it with np.savez.") from error
    if x is None:
        found = ", ".join(keys) or "none"
        raise ValueError(f"`{name}` must hold an array `images` or a single array, got {found}. Name it `images`.")
    return to_images(x, y, name)


def to_images(x: object, y: object, name: str) -> Images:
    """Bring an array to float32 (N, C, H, W) in [0, 1].

    Args:
        x: uint8 (divided by 255) or floating point in [0, 1]; shape (N, H, W) for grey, else (N, H, W, C) or
            (N, C, H, W): the axis of size 1 or 3 is C.
        y: integer labels, shape (N,), or None.
        name: what errors call it.

    Raises:
        ValueError: another dtype or shape, both or neither of the two axes of size 1 or 3, no image, NaN, values
            outside [0, 1], or labels that are not N integers.
    """
    import numpy as np

    array = np.asarray(x)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"`{name}` must hold uint8 or floating-point images, got {array.dtype}. Convert them.")
    scale = 255 if array.dtype == np.uint8 else 1
    images = torch.from_numpy(channels_first(array, name).astype(np.float32)) / scale
    return Images(name, check_images(images, name), to_labels(y, len(images), name), name)


def channels_first(x: "NDArray[Any]", name: str) -> "NDArray[Any]":
    """(N, H, W), (N, H, W, C) or (N, C, H, W) to (N, C, H, W), C being 1 or 3.

    Raises:
        ValueError: the shape is none of these, or may be two of them.
    """
    if x.ndim not in (3, 4) or x.size == 0:
        raise ValueError(f"`{name}` must be (N, H, W), (N, H, W, C) or (N, C, H, W), got {x.shape}. Stack the images.")
    last = x.shape[-1] in (1, 3)
    if x.ndim == 3 and not last:
        return x[:, None]
    first = x.ndim == 4 and x.shape[1] in (1, 3)
    if x.ndim == 3 or first == last:
        raise ValueError(
            f"`{name}` must have one axis of size 1 or 3, second or last of four, for its channels, got {x.shape}. "
            "Add the missing axis or transpose."
        )
    return x if first else x.transpose(0, 3, 1, 2)


def to_labels(y: object, n: int, name: str) -> Tensor | None:
    """Labels as int64, shape (n,); None stays None.

    Raises:
        ValueError: not n integers.
    """
    import numpy as np

    if y is None:
        return None
    array = np.asarray(y)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must have {n} integer labels, got {array.dtype} {array.shape}. One label an image.")
    return torch.from_numpy(array.astype(np.int64))
