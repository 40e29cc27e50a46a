"""What the Square Attack, arXiv:1912.00049, adds to images: stripes, bumps and the windows they are put in."""

import torch
from torch import Tensor

from oodattack.geometry import RowRandom


def stripes(x: Tensor, random: RowRandom) -> Tensor:
    """Vertical stripes one pixel wide, +-1 for each channel."""
    return random_signs(random, (x.shape[1], 1, x.shape[3]), x).expand_as(x)


def tiling(x: Tensor, random: RowRandom, order: int) -> Tensor:
    """A grid of bumps, five by five where the image allows, with norm 1 in all."""
    _, c, h, w = x.shape
    side = max(1, min(h, w) // 5)
    i, j = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    bump = eta(side, x)[i % side][:, j % side], eta(side, x).T[i % side][:, j % side]
    tiles = (-(-h // side), -(-w // side))
    upright, signs = random.integers(2, (1, *tiles)).bool(), random_signs(random, (c, *tiles), x)
    upright, signs = (tile[:, :, i // side][:, :, :, j // side] for tile in (upright, signs))
    delta: Tensor = signs * torch.where(upright, *bump)
    return delta / channel_norm(delta.flatten(1)[:, None, :, None], order)


def window(x: Tensor, random: RowRandom, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """A square at a random place: its mask (B, 1, H, W), and where a pixel lies in it, (B, H, 1) and (B, 1, W)."""
    h, w = x.shape[2:]
    top, left = random.integers(h - side + 1, (1, 1)), random.integers(w - side + 1, (1, 1))
    rows = torch.arange(h, device=x.device).view(1, h, 1) - top
    columns = torch.arange(w, device=x.device).view(1, 1, w) - left
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return inside[:, None], rows.clamp(0, side - 1), columns.clamp(0, side - 1)


def turned(bump: Tensor, random: RowRandom, rows: Tensor, columns: Tensor) -> Tensor:
    """The bump or its transpose, laid where the window is, (B, 1, H, W)."""
    upright = random.integers(2, (1, 1)).bool()
    return torch.where(upright, bump[rows, columns], bump.T[rows, columns])[:, None]


def eta(side: int, x: Tensor) -> Tensor:
    """eta of Alg. 3, (side, side): two half windows, each a pyramid of norm 1, one upwards and one downwards."""
    halves = []
    for height, sign in ((side // 2, 1), (side - side // 2, -1)):
        far = max(height, side) // 2
        i, j = torch.arange(height) - height // 2, torch.arange(side) - side // 2
        ring = torch.maximum(i.abs()[:, None], j.abs()[None])  # distance from the centre
        tails = (torch.arange(1, far + 2, dtype=torch.float64) ** -2).flip(0).cumsum(0).flip(0)
        pyramid = tails[ring]
        halves.append(sign * pyramid / or_one(torch.linalg.vector_norm(pyramid)))
    return torch.cat(halves).to(x)


def random_signs(random: RowRandom, shape: tuple[int, ...], x: Tensor) -> Tensor:
    """-1 or 1, (B, *shape), like `x` in kind."""
    return (2 * random.integers(2, shape) - 1).to(x)


def channel_norm(delta: Tensor, order: int) -> Tensor:
    """Norm of each channel, (B, C, 1, 1)."""
    size: Tensor = torch.linalg.vector_norm(delta, order, dim=(2, 3), keepdim=True)
    return size


def or_one(size: Tensor) -> Tensor:
    """`size` with ones for zeros, to divide by."""
    return size.where(size > 0, 1)
