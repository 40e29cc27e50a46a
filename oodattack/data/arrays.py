"""Arrays from an .npz or .npy file, or from user code, as images in [0, 1]."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oodattack.data.dataset import Opened
from oodattack.data.images import Images, check_images
from oodattack.data.mapped import is_npy, map_array, map_npy
from oodattack.data.steps import Step, apply_steps, told
from oodattack.lookup import summary

if TYPE_CHECKING:
    from numpy.typing import NDArray


def open_npz(path: str | Path) -> Opened:
    """The array KEY of PATH#KEY; without a key, `images` or the only array besides `labels`.

    Labels: `labels`; with a key, `train_labels` for `train_images` and `y_train` for `x_train`; none in an .npy file,
    which is one array. Large arrays that were not compressed stay on disk; see `map_array`. Nothing is ever unpickled.

    Raises:
        ValueError: the file is missing, no .npz or .npy, holds objects, or holds no images; the message starts with its
            path.
    """
    name, (file, key) = f"npz:{path}", split_key(path)
    if not file.exists():
        raise ValueError(f"`{name}` must name a file, got none there. Check the path.")
    alone = key is None and is_npy(file)
    if not alone and not zipfile.is_zipfile(file):
        raise ValueError(f"`{name}` must be an .npz archive, got another kind of file. Write it with np.savez.")
    try:
        x, y, keys = (map_npy(file), None, []) if alone else read_arrays(file, key)
    except Exception as error:  # whatever a damaged archive makes zipfile and numpy raise, running out of memory too
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`{name}` must hold plain, whole arrays, got: {reason}. Write it with np.savez.") from error
    if x is None:
        wanted, remedy = (
            ("`images` or a single array", "Name it `images`") if key is None else (f"`{key}`", "Name another")
        )
        raise ValueError(f"`{name}` must hold an array {wanted}, got {', '.join(keys) or 'none'}. {remedy}.")
    total = len(x) if x.ndim else 0
    if total == 0 or (y is not None and y.shape[:1] != (total,)):
        to_images(x, y, name)  # raises

    def take(rows: Tensor, steps: tuple[Step, ...]) -> Images:
        keep = slice(None) if len(rows) == total else rows.numpy()
        images = to_images(x[keep], None if y is None else y[keep], name)
        return images._replace(x=apply_steps(images.x, steps), source=images.source + told(steps))

    return Opened(total, take)


def split_key(path: str | Path) -> tuple[Path, str | None]:
    """PATH#KEY to file and key; a file whose own name has a # in it goes first."""
    whole = Path(path).expanduser()
    file, _, key = str(whole).rpartition("#")
    return (whole, None) if whole.exists() or not file else (Path(file), key)


def read_arrays(file: Path, key: str | None) -> "tuple[NDArray[Any] | None, NDArray[Any] | None, list[str]]":
    """Images, labels and the names of all arrays that may be images; None for what is not there."""
    import numpy as np

    with np.load(file, allow_pickle=False) as archive:
        keys = [name for name in archive.files if name != "labels"]
        chosen = key or ("images" if "images" in keys or len(keys) != 1 else keys[0])
        if chosen not in archive.files:
            return None, None, keys
        labels = "labels" if key is None else labels_of(key)
        mapped = map_array(file, chosen)
        x = archive[chosen] if mapped is None else mapped
        return x, archive[labels] if labels in archive.files else None, keys


def labels_of(key: str) -> str | None:
    """The array that has the labels of the images `key`, by its name."""
    if "images" in key:
        return key.replace("images", "labels")
    return f"y{key[1:]}" if key.startswith("x") else None


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

    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:  # such as pictures of several sizes in a list
        raise ValueError(f"`{name}` must hold one array of images, got {summary(error)}. Stack the images.") from error
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"`{name}` must hold uint8 or floating-point images, got {array.dtype}. Convert them.")
    scale = 255 if array.dtype == np.uint8 else 1
    images = torch.from_numpy(np.array(channels_first(array, name), dtype=np.float32, order="C"))
    images /= scale  # in a copy: maps are read-only, and others' arrays stay as they are
    return Images(name, check_images(images, name), to_labels(y, len(images), name), name)


def channels_first(x: "NDArray[Any]", name: str) -> "NDArray[Any]":
    """(N, H, W), (N, H, W, C) or (N, C, H, W) to (N, C, H, W), C being 1 or 3.

    Raises:
        ValueError: there is no image, the shape is none of these, or may be two of them.
    """
    if x.ndim in (3, 4) and len(x) == 0:
        raise ValueError(f"`{name}` must hold at least one image, got {x.shape}. Save some, or name another set.")
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
