"""The noises among the common corruptions, arXiv:1903.12261: x (B, C, H, W), streams, severity 0..4 -> same shape."""

import torch
from torch import Tensor

from oodattack.geometry import RowRandom


def gaussian_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """x + sigma n."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.1)[s] * random.normal(x.shape[1:]).to(x)


def shot_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """Poisson(c x) / c; PyTorch draws it only with one generator at a time, hence row by row."""
    rate = (500, 250, 100, 75, 50)[s]
    rows = zip((rate * x).float().cpu(), random.generators, strict=True)
    counts = [torch.poisson(row, generator=generator) for row, generator in rows]
    return torch.stack(counts).to(x) / rate if counts else x


def impulse_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """A share of the values becomes 0 or 1."""
    u = random.uniform(x.shape[1:]).to(x) / (0.01, 0.02, 0.03, 0.05, 0.07)[s]
    return x.where(u >= 1, (u < 0.5).to(x))


def speckle_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """x + sigma x n."""
    return x + (0.06, 0.1, 0.12, 0.16, 0.2)[s] * x * random.normal(x.shape[1:]).to(x)
