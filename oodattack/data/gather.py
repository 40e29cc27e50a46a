"""Pictures to images in memory: chosen first, decoded one by one, never more of them than asked for."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from oodattack.data.dataset import Opened
from oodattack.data.images import Images, check_one_size
from oodattack.data.steps import Step, apply_steps, told

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


class Pictures(NamedTuple):
    """Pictures that are not decoded yet.

    Attributes:
        name: what errors call them.
        source: where they come from, for the report.
        total: how many there are.
        read: picture and label of a number in 0..total-1; the label is None or negative where there is none.
    """

    name: str
    source: str
    total: int
    read: Callable[[int], tuple["Image", int | None]]


def unread(pictures: Pictures) -> Opened:
    """Pictures as a set that decodes what is taken."""
    return Opened(pictures.total, lambda rows, steps: gather(pictures, rows, steps))


def gather(pictures: Pictures, rows: Tensor, steps: tuple[Step, ...]) -> Images:
    """Decode the chosen pictures, take the steps, stack.

    Args:
        pictures: where to read.
        rows: which, int64, shape (n,), n >= 1.
        steps: what is done to each; see `apply_steps`.

    Returns:
        x: shape (n, C, H, W), 8-bit values divided by 255, C = 1 where all are grey and 3 otherwise. Labels where every
        picture has one. Transparency is dropped, 16-bit grey is rounded to 8 bits.

    Raises:
        ValueError: a picture is missing, broken, too large to decode safely, or not of the size of the first.
    """
    import numpy as np

    found = [decode(pictures, row, steps) for row in rows.tolist()]
    check_one_size(((array.shape[0], array.shape[1]) for array, _ in found), pictures.name)
    grey = all(array.ndim == 2 for array, _ in found)
    same = [array[..., None] if grey else array if array.ndim == 3 else np.stack([array] * 3, -1) for array, _ in found]
    x = torch.from_numpy(np.stack(same)).permute(0, 3, 1, 2).float() / 255
    labels = [label for _, label in found if label is not None and label >= 0]
    y = torch.tensor(labels) if len(labels) == len(found) else None
    return Images(pictures.name, x.contiguous(), y, pictures.source + told(steps))


def decode(pictures: Pictures, row: int, steps: tuple[Step, ...]) -> tuple["NDArray[Any]", int | None]:
    """One picture after the steps, uint8 of shape (H, W) or (H, W, 3), and its label."""
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture, label = pictures.read(row)
            return np.asarray(apply_steps(eight_bit(picture, pictures.name), steps)), label
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ValueError(
            f"`{pictures.name}` must have at most {limit} pixels a picture, got more. Shrink it."
        ) from error
    except (OSError, SyntaxError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`{pictures.name}` must hold readable pictures, got: {reason}. Restore that file.") from error


def eight_bit(picture: "Image", name: str) -> "Image":
    """Mode "L" for grey pictures, "RGB" for all others; 16-bit grey is divided by 257 and rounded.

    Raises:
        ValueError: floating-point pixels, whose range no file states.
    """
    import numpy as np
    from PIL import Image

    if picture.mode == "F":
        raise ValueError(f"`{name}` must have pictures of 8 or 16 bits, got floating point. Save them as PNG or .npz.")
    if picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.float64).clip(0, 65535)
        return Image.fromarray((values / 257).round().astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")
