"""The patch: a square window at the centre of the image in which pixels are free, and nothing else may change.

Masked attacks on detectors use it (OpenOOD's evaluation of Lorenz et al. 2024: 8 pixels of 32, 60 of 224). The place is
fixed: an attacker who may choose it as well is stronger than this one.
"""

import torch
from torch import Tensor


def window(shape: tuple[int, ...], side: float, device: torch.device | str = "cpu") -> Tensor:
    """Pixels of the patch: rows (H - side) // 2 to (H - side) // 2 + side - 1, columns alike.

    Args:
        shape: of the images, (..., H, W).
        side: whole number of pixels, >= 0; a side longer than the image is the whole image.
        device: where the mask goes.

    Returns:
        True inside, shape (H, W).

    Raises:
        ValueError: `side` is negative, broken or NaN, or an image has no rows and columns.
    """
    if len(shape) < 2:
        raise ValueError(f"a patch must lie in images, shape (..., H, W), got {tuple(shape)}. Use another norm.")
    if not (side >= 0 and side == int(side)):
        raise ValueError(f"`eps` of a patch must be a whole number of pixels >= 0, got {side}. Write 8 for 8 x 8.")
    height, width = (reach(length, device) <= side for length in shape[-2:])
    return height[:, None] & width


def reach(length: int, device: torch.device | str) -> Tensor:
    """Side of the smallest centred window that holds each of `length` pixels in a line, shape (length,), >= 1."""
    i = torch.arange(length, device=device)
    return torch.maximum(length - 2 * i - 1, 2 * i + 2 - length).clamp(min=1)


def project_patch_then_clamp(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """clamp(x_adv, 0, 1) in the patch and x elsewhere, bit for bit: the nearest allowed input.

    Args:
        x_adv: shape (B, C, H, W), B >= 0, finite.
        x: clean inputs, same shape and dtype, values in [0, 1].
        eps: side of the patch in pixels.

    Raises:
        ValueError: `eps` is negative or broken.
    """
    return x_adv.clamp(0, 1).where(window(x.shape, eps, x.device), x)


def patch_side(delta: Tensor) -> Tensor:
    """Side of the smallest centred patch that holds every change, <= eps for what `project_patch_then_clamp` allows.

    Args:
        delta: shape (B, C, H, W), B >= 0.

    Returns:
        Shape (B,), in pixels, dtype of `delta`; 0 for a row without any change.
    """
    height, width = (reach(length, delta.device) for length in delta.shape[-2:])
    changed = (delta != 0).any(dim=1)
    sides = torch.maximum(height[:, None], width).where(changed, 0)
    return sides.flatten(1).amax(dim=1).to(delta.dtype)
