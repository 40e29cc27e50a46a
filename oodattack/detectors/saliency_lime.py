"""LIME: Ribeiro, Singh & Guestrin, "'Why Should I Trust You?': Explaining the Predictions of Any Classifier", KDD 2016,
arXiv:1602.04938."""

import torch
from torch import Generator, Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.saliency_masks import check_grid, masked_logits
from oodattack.detectors.saliency_target import predicted

KERNEL_WIDTH = 0.25  # SalAgg paper, appendix "Hyperparameters used"


def draw_masks(*, seed: int, grid: int = 4, count: int = 100) -> Tensor:
    """Random masks of which every cell stays with probability 1/2, shape (count, grid, grid), bool.

    Raises:
        ValueError: fewer than 2 cells a side, or fewer masks than a regression on the cells needs.
    """
    check_grid(grid)
    if count <= grid * grid:
        raise ValueError(
            f"`count` must be > grid^2 = {grid * grid} for a regression, got {count}. The authors take 100."
        )
    return torch.rand(count, grid, grid, generator=Generator().manual_seed(seed)) < 0.5


def regression(masks: Tensor) -> Tensor:
    """The linear map from values at the masks to the coefficients of a weighted least-squares fit with intercept.

    A mask m weighs sqrt(exp(-d^2 / 0.25^2)), d = 1 - cos(m, 1). With fixed masks the coefficients are linear in the
    values: with rows X of cells centred by their weighted mean and S the roots of the weights, they are (S X)^+ S y for
    centred values y.

    Args:
        masks: shape (M, G, G), bool.

    Returns:
        Shape (G^2, M), float64.
    """
    cells = masks.flatten(1).double()
    similar = cells.mean(dim=1).sqrt()  # cos(m, 1) = sqrt(share of cells that stay); 0 for an empty mask
    weight = (-((1 - similar) ** 2) / KERNEL_WIDTH**2).exp().sqrt()
    share = weight / weight.sum()
    root = weight.sqrt()[:, None]
    centred = cells - share @ cells
    whole: Tensor = torch.linalg.pinv(root * centred) * root.T  # (G^2, M)
    return whole - whole.sum(dim=1, keepdim=True) * share  # values are centred like cells


def lime(net: Classifier, x: Tensor, *, masks: Tensor) -> Tensor:
    """Coefficients of a linear model of f_c on random masks of the image, one for each cell of their grid.

    c is the predicted class of the whole image; what a mask hides is the mean image, 0 in normalised units. A value
    costs a forward pass for each mask (100 by default), a gradient 4 times as many; memory is that of one block of
    images. It is an ordinary function of x, with a gradient of its own.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1].
        masks: see `draw_masks`.

    Returns:
        Shape (B, G^2), in logits, either sign.

    Raises:
        ValueError: a grid finer than the image.

    Differs from the paper: nothing. Differs from the authors' code: masks are drawn once, from a seed, and are the same
    for all images; theirs are fresh and unseeded for each, so that a score never repeats.
    """
    values = masked_logits(net, x, predicted(net, x), masks)
    return values @ regression(masks).to(values).T
