"""Filters of images that the corruptions are made of: blur, enlarge, smear."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from oodattack.attacks.stadv import warp


def blur(x: Tensor, sigma: float, *, half: int | None = None) -> Tensor:
    """Gaussian of `sigma` pixels, cut at 4 sigma (or `half` pixels) and at the image."""
    from torchvision.transforms.functional import gaussian_blur as smooth

    half = min(math.ceil(4 * sigma) if half is None else half, x.shape[2] - 1, x.shape[3] - 1)
    return smooth(x, [2 * half + 1] * 2, [sigma] * 2) if half > 0 else x


def zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of an image, enlarged."""
    theta = x.new_tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(x), -1, -1)
    at = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, at, padding_mode="border", align_corners=False)


def streak(x: Tensor, angle: Tensor, radius: int, sigma: float) -> Tensor:
    """Mean over shifts by 0, 1, ... 2 radius pixels (at most 4 sigma) along `angle` (B,), radians, by a Gaussian."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(1 + min(2 * radius, math.ceil(4 * sigma)))]
    direction = torch.stack([angle.cos() / x.shape[3], angle.sin() / x.shape[2]], dim=1)  # share of the side
    total = torch.zeros_like(x)
    for i, weight in enumerate(weights):
        flow = (i * direction)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        total = total + weight / sum(weights) * warp(x, flow)
    return total
