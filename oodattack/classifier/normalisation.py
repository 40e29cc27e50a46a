"""Mean and standard deviation of channels, which come with a network's weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Mean and std of channels as tensors of shape (1, C, 1, 1); 0 and 1 for None.

    Raises:
        ValueError: one without the other, numbers of channels that differ, a mean outside [0, 1], or a std that is not
            positive.
    """
    try:
        shift, scale = (None if part is None else torch.as_tensor(part, dtype=torch.float32) for part in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"`mean` and `std` must have one number a channel each, got {mean} and {std}. "
            "Give both as lists of one length, or neither."
        ) from None
    if shift is None and scale is None:
        shift, scale = torch.tensor([0.0]), torch.tensor([1.0])
    if shift is None or scale is None or shift.ndim != 1 or shift.shape != scale.shape or not len(shift):
        raise ValueError(
            f"`mean` and `std` must have one number a channel each, got {mean} and {std}. "
            "Give both as lists of one length, or neither."
        )
    if not (scale.isfinite().all() and scale.min() > 0):
        raise ValueError(f"`std` must be > 0, got {std}. Take that of the training images.")
    if not shift.isfinite().all():
        raise ValueError(f"`mean` must be finite, got {mean}. Take that of the training images.")
    if shift.min() < 0 or shift.max() > 1:
        remedy = "Divide it by 255, and `std` too" if shift.max() > 1 else "Take that of the training images"
        raise ValueError(f"`mean` must be in [0, 1], as images are, got {mean}. {remedy}.")
    return shift.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)


def normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std.

    Args:
        x: shape (B, C, H, W), values in [0, 1].
        mean: shape (1, C, 1, 1), or (1, 1, 1, 1) for any number of channels.
        std: shape of `mean`, > 0.

    Returns:
        Shape of `x`, unbounded.

    Raises:
        ValueError: images with other channels than `mean`.
    """
    if mean.shape[1] not in (1, x.shape[1]):  # would broadcast one channel to many
        raise ValueError(
            f"`x` must have {mean.shape[1]} channels as `mean` has, got {x.shape[1]}. "
            "Convert the images, or give other statistics."
        )
    return (x - mean) / std
