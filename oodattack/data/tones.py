"""Grey and colour: luminance, stretch to [0, 1], and which picture formats the package makes."""

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601-7, section 2.5.1
SMALLEST = 8  # pixels a side; below it an 8 x 8 checkerboard has no room


def check_format(channels: int, size: int) -> None:
    """Raise unless pictures of `channels` x `size` x `size` can be made.

    Raises:
        ValueError: channels is neither 1 nor 3, or size < 8.
    """
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 (grey) or 3 (RGB), got {channels}. Bring other images as `npz:PATH`.")
    if size < SMALLEST:
        raise ValueError(f"`size` must be >= {SMALLEST}, got {size}. Smaller pictures show nothing.")


def as_channels(rgb: Tensor, channels: int) -> Tensor:
    """The picture itself for 3 channels, its luminance 0.299 R + 0.587 G + 0.114 B for 1.

    Args:
        rgb: shape (..., 3, H, W), values in [0, 1].
        channels: 1 or 3.

    Returns:
        Shape (..., channels, H, W), values in [0, 1].
    """
    if channels == 3:
        return rgb
    weight = torch.tensor(LUMINANCE, dtype=rgb.dtype).view(3, 1, 1)
    return (weight * rgb).sum(-3, keepdim=True).clamp(0, 1)  # the clamp undoes rounding


def stretch(x: Tensor) -> Tensor:
    """(x - min x) / (max x - min x), over the whole tensor; `x` must not be constant."""
    low, high = x.aminmax()
    return (x - low) / (high - low)
