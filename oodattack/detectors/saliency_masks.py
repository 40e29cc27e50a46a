"""Logits of an image with parts of it masked: what occlusion and LIME are made of."""

from functools import partial

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.saliency_recompute import recomputed
from oodattack.detectors.saliency_target import blocks, chosen_logit


def masked_logits(net: Classifier, x: Tensor, label: Tensor, masks: Tensor) -> Tensor:
    """f_c of the images with cells set to the mean image, 0 in normalised units.

    Forward passes run over blocks of masks times rows. Differentiated, a block is evaluated once more instead of
    remembered: 4 forward passes a mask, in the memory of one block.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1].
        label: class c of each row, shape (B,).
        masks: which cells of a grid over the image stay, shape (M, G, G), bool.

    Returns:
        Shape (B, M), unbounded.

    Raises:
        ValueError: an image with fewer pixels than the grid has cells, along either side.
    """
    grid, (height, width) = masks.shape[1], x.shape[2:]
    if min(height, width) < grid:
        raise ValueError(
            f"`x` must have {grid} pixels a side or more, got {height} x {width}. Choose a smaller `grid`."
        )
    down, across = (torch.arange(side, device=x.device) * grid // side for side in (height, width))
    kept = masks[:, down][:, :, across][:, None, None]  # (M, 1, 1, H, W)

    def part(block: slice, z: Tensor) -> Tensor:
        shown = torch.where(kept[block], z, net.mean)  # (m, B, C, H, W)
        logits = net.logits(shown.flatten(0, 1))
        return chosen_logit(logits, label.repeat(len(shown))).view(len(shown), -1).T

    parts = [recomputed(partial(part, block), x) for block in blocks(len(masks), len(x))]
    return torch.cat(parts, dim=1)


def check_grid(grid: int) -> None:
    """Raise ValueError unless the grid has at least 2 cells a side."""
    if grid < 2:
        raise ValueError(f"`grid` must be >= 2, got {grid}. The paper takes 4.")
