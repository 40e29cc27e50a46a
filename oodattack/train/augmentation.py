"""Random shifts, mirroring and noise, an own draw for each image."""

import torch
from torch import Generator, Tensor, nn

from oodattack.train.recipe import Recipe


def augmented(x: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    """Images (B, C, H, W) as the recipe wants them; a recipe without shift, flip and noise takes no random numbers."""
    if recipe.shift:
        x = shifted(x, recipe.shift, generator)
    if recipe.flip:
        x = flipped(x, generator)
    return x


def noisy(x: Tensor, std: float, generator: Generator) -> Tensor:
    """x + std z with z ~ N(0, 1); no random numbers for std = 0, and no clipping."""
    if std == 0:
        return x
    return x + std * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def shifted(x: Tensor, most: int, generator: Generator) -> Tensor:
    """Each image moved by up to `most` pixels a side, zeros moving in: a random crop of the image padded by `most`."""
    n, channels, height, width = x.shape
    padded = nn.functional.pad(x, [most] * 4)
    top, left = torch.randint(2 * most + 1, (2, n), generator=generator).to(x.device)
    down = (top[:, None] + torch.arange(height, device=x.device)).view(n, 1, height, 1)
    right = (left[:, None] + torch.arange(width, device=x.device)).view(n, 1, 1, width)
    each = torch.arange(n, device=x.device).view(n, 1, 1, 1)
    return padded[each, torch.arange(channels, device=x.device).view(1, channels, 1, 1), down, right]


def flipped(x: Tensor, generator: Generator) -> Tensor:
    """Each image mirrored left to right with chance 1/2."""
    mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
