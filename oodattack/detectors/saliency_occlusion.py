"""Occlusion: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901."""

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.saliency_masks import check_grid, masked_logits
from oodattack.detectors.saliency_target import chosen_logit


def occlusion(net: Classifier, x: Tensor, *, grid: int = 4) -> Tensor:
    """f_c(x) - f_c(x without a cell), one value for each of grid x grid rectangular cells.

    c is the predicted class of the whole image; a cell is hidden by the mean image, 0 in normalised units. A value
    costs grid^2 + 1 forward passes, a gradient 4 times as many. It is an ordinary function of x, with a gradient of its
    own.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1].
        grid: cells a side, >= 2.

    Returns:
        Shape (B, grid^2), row by row, in logits, either sign.

    Raises:
        ValueError: a grid below 2 or finer than the image.

    Differs from the paper: nothing (its cells are a quarter of height and width). Differs from the authors' code:
    theirs sums over the C channels, C times this; sides that `grid` does not divide get cells of two sizes, no rest.
    """
    check_grid(grid)
    logits = net.logits(x)
    label = logits.detach().argmax(dim=1)
    masks = ~torch.eye(grid * grid, dtype=torch.bool, device=x.device).view(-1, grid, grid)
    return chosen_logit(logits, label)[:, None] - masked_logits(net, x, label, masks)
