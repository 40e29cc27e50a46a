"""A picture from disk, in any format that Pillow reads."""

import warnings
from pathlib import Path

import torch
from torch import Tensor


def picture(path: str | Path, *, channels: int, size: int) -> Tensor:
    """Read a picture and resize it, bilinearly with antialiasing, to `size` x `size`; the aspect ratio is not kept.

    The camera's orientation tag is honoured, transparency is dropped, 16-bit grey is divided by 65535. Pillow's limit
    on decompressed size stays on: nothing above it is decoded.

    Args:
        path: the file.
        channels: 1 for luminance, 3 for RGB.
        size: pixels a side.

    Returns:
        Shape (channels, size, size), values in [0, 1].

    Raises:
        ValueError: the file is missing, unreadable, broken or too large to decode safely.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(Path(path).expanduser()) as file:
                upright = ImageOps.exif_transpose(file)
                if upright.mode == "F":  # whose range no file states
                    raise ValueError(f"`picture:{path}` must have 8 or 16 bits, got floating point. Save it as PNG.")
                deep = upright.mode.startswith("I")  # 16-bit grey: Pillow's conversion to 8 bits would clip it at 255
                small = upright.convert("F" if deep else "L" if channels == 1 else "RGB")
                small = small.resize((size, size), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise ValueError(f"`picture:{path}` must name a file, got none there. Check the path.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ValueError(f"`picture:{path}` must have at most {limit} pixels, got more. Shrink it first.") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"`picture:{path}` must be a readable picture, got: {error}. Save it as PNG.") from error
    x = torch.from_numpy(np.array(small, dtype=np.float32)).view(size, size, -1).permute(2, 0, 1)
    return (x / (65535 if deep else 255)).clamp(0, 1).repeat(channels // len(x), 1, 1)
