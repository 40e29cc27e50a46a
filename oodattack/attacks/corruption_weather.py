"""Snow, fog and brightness of the common corruptions, arXiv:1903.12261.

Each takes x (B, C, H, W), the streams of the rows and a severity 0..4, and returns the same shape.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from oodattack.attacks.colour import hsv, rgb
from oodattack.attacks.filters import streak, zoom
from oodattack.geometry import RowRandom


def snow(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """Flakes, enlarged and streaked, over a whitened image."""
    mean, spread, larger, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[s]
    layer = zoom(mean + spread * random.normal((1, *x.shape[2:])).to(x), larger)
    layer = layer.where(layer >= threshold, 0).clamp(max=1)
    layer = streak(layer, math.pi * (0.25 + 0.5 * random.uniform(()).to(x)), radius, sigma)
    grey = x.mean(dim=1, keepdim=True)
    return keep * x + (1 - keep) * torch.maximum(x, 1.5 * grey + 0.5) + layer + layer.flip(2, 3)


def fog(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """x plus a cloud, back to the brightest value. Differs: noise summed over scales for the plasma fractal."""
    thickness, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[s]
    cloud = torch.zeros_like(x[:, :1])
    for level in range(math.ceil(math.log2(max(*x.shape[2:], 2))) + 1):
        noise = random.uniform((1, 2**level + 1, 2**level + 1)).to(x)
        noise = interpolate(noise, x.shape[2:], mode="bilinear", align_corners=True)
        cloud = cloud + decay**-level * (2 * noise - 1)
    low, high = cloud.amin(dim=(1, 2, 3), keepdim=True), cloud.amax(dim=(1, 2, 3), keepdim=True)
    top = x.amax(dim=(1, 2, 3), keepdim=True)
    return (x + thickness * (cloud - low) / (high - low).clamp(min=1e-6)) * top / (top + thickness)


def brightness(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """HSV value plus a constant; the channel itself where there is but one."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[s]
    if x.shape[1] != 3:
        return x + more
    hue, saturation, value = hsv(x)
    return rgb(hue, saturation, (value + more).clamp(max=1))
