"""Steepest ascent directions: argmax_u <u, g> subject to ||u||_p <= 1, per row. One gradient in, one direction out.

Each row is divided by its largest entry first, so the squares of a tiny gradient do not underflow and the direction is
the same for g and 1e-30 g. Rows that are zero give zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def steepest_linf(g: Tensor) -> Tensor:
    """sign(g); <u, g> = ||g||_1.

    Args:
        g: gradients, shape (B, ...), B >= 0, finite.

    Returns:
        Directions, same shape and dtype, ||u||_inf <= 1.
    """
    return g.sign()


def steepest_l2(g: Tensor) -> Tensor:
    """Gradient over its length, g / ||g||_2; <u, g> = ||g||_2. Arguments as `steepest_linf`, with ||u||_2 <= 1.

    Differs from the code of Liang et al. (arXiv:2009.08016), which divides by max(||g||_2, 1e-12): no floor is needed.
    """
    rows = _by_largest(g.flatten(1))
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return (rows / length.clamp(min=1)).view_as(g)


def steepest_l1(g: Tensor, *, share: float = 0.01) -> Tensor:
    """sign(g) / k on the k = max(1, round(share D)) entries of largest |g|, zero elsewhere.

    Source: the direction of SLIDE, Tramer & Boneh, "Adversarial Training and Robustness for Multiple Perturbations",
    NeurIPS 2019, arXiv:1904.13000. One entry is the exact steepest direction, <u, g> = ||g||_inf, but moves one pixel a
    step; a share above 1/D trades that for speed, <u, g> being the mean of the k largest |g|.

    Args:
        g: gradients, shape (B, ...), B >= 0, finite.
        share: share of the D entries of a row to move, in (0, 1].

    Returns:
        Directions, same shape and dtype, ||u||_1 = 1, or 0 for a zero row. Fewer than k entries move where fewer are
        non-zero.

    Raises:
        ValueError: `share` is out of range.

    Differs from the paper: exactly k entries move, whereas a percentile of |g| moves all that tie with the last one.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1], got {share}. Write 0.01 for one pixel value in a hundred.")
    rows = g.flatten(1)
    top = rows.abs().topk(max(1, round(share * rows.shape[1])), dim=1).indices
    chosen = rows.gather(1, top).sign()
    chosen = chosen / chosen.abs().sum(dim=1, keepdim=True).clamp(min=1)
    return torch.zeros_like(rows).scatter(1, top, chosen).view_as(g)


STEEPEST: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": steepest_linf,
    "l2": steepest_l2,
    "l1": steepest_l1,
    "patch": steepest_linf,  # pixels are free there
}


def _by_largest(rows: Tensor) -> Tensor:
    """Rows (B, D) scaled so that the largest |entry| is 1; zero rows stay zero."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    return rows / largest.where(largest > 0, 1)
