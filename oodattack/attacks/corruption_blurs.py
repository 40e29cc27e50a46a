"""The blurs among the common corruptions, arXiv:1903.12261: x (B, C, H, W), streams, severity 0..4 -> same shape."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from oodattack.attacks.filters import blur, streak, zoom
from oodattack.geometry import RowRandom


def gaussian_blur(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Gaussian of 0.4 to 1 pixels."""
    return blur(x, (0.4, 0.6, 0.7, 0.8, 1.0)[s])


def defocus_blur(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """A disk of the lens, its edge smoothed by a Gaussian."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[s]
    at = torch.arange(-3, 4, device=x.device, dtype=x.dtype).square()
    disk = (at[:, None] + at <= radius**2).to(x)
    kernel = blur((disk / disk.sum())[None, None], soft, half=1)
    flat = x.flatten(0, 1).unsqueeze(1)
    return conv2d(pad(flat, (3, 3, 3, 3), mode="replicate"), kernel).view_as(x)


def glass_blur(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """Blur, pixels displaced by up to one, blur. Differs: a pixel copies a neighbour, they do not swap."""
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[s]
    x = blur(x, sigma)
    height, width = x.shape[2:]
    for _ in range(rounds):
        jump = random.integers(2, (2, height, width)).to(x.device)
        down = (torch.arange(height, device=x.device)[:, None] - jump[:, 0]).clamp(min=0)
        across = (torch.arange(width, device=x.device) - jump[:, 1]).clamp(min=0)
        index = (down * width + across).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
        x = x.flatten(2).gather(2, index).view_as(x)
    return blur(x, sigma)


def motion_blur(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """One-sided Gaussian along a direction within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[s]
    return streak(x, math.pi / 4 * (2 * random.uniform(()).to(x) - 1), radius, sigma)


def zoom_blur(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Mean of x and its enlargements by 1.00, 1.01, ... up to 1.05 to 1.25."""
    factors = 1 + 0.01 * torch.arange((6, 11, 16, 21, 26)[s])
    return (x + sum(zoom(x, float(f)) for f in factors)) / (len(factors) + 1)
