"""Steepest ascent directions: argmax_u <u, g> subject to ||u||_p <= 1, per row. One gradient in, one direction out.

Each row is divided by its largest entry first, so the squares of a tiny gradient do not underflow and the direction is
the same for g and 1e-30 g. Rows that are zero give zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

PIXEL_SHARE = 0.01  # of the pixels, that a step of l1 moves


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


def steepest_l1(g: Tensor, *, share: float = PIXEL_SHARE) -> Tensor:
    """g / ||g||_1 over the k = max(1, round(share D)) entries of largest |g|, zero elsewhere.

    After SLIDE, Tramer & Boneh, "Adversarial Training and Robustness for Multiple Perturbations", NeurIPS 2019,
    arXiv:1904.13000. One entry is the exact steepest direction, <u, g> = ||g||_inf, but moves one pixel a step; a share
    above 1/D trades that for speed.

    Args:
        g: gradients, shape (B, ...), B >= 0, finite.
        share: share of the D entries of a row to move, in (0, 1].

    Returns:
        Directions, same shape and dtype, ||u||_1 = 1, or 0 for a zero row. Fewer than k entries move where fewer are
        non-zero.

    Raises:
        ValueError: `share` is out of range.

    Differs from the paper: entries move in proportion to |g|, not by sign(g) / k, where a projection that takes the
    same from each of them would keep all k alike for ever; and exactly k of them move, whereas a percentile of |g|
    moves all that tie with the last one.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1], got {share}. Write 0.01 for one pixel value in a hundred.")
    rows = g.flatten(1)
    top = rows.abs().topk(_few(rows.shape[1], share), dim=1).indices
    chosen = _by_largest(rows.gather(1, top))
    chosen = chosen / chosen.abs().sum(dim=1, keepdim=True).clamp(min=1)
    return torch.zeros_like(rows).scatter(1, top, chosen).view_as(g)


def free(g: Tensor, x_adv: Tensor) -> Tensor:
    """The gradient, zero where a pixel stands at 0 or 1 and would leave the box. Shapes (B, ...)."""
    return g.masked_fill(((x_adv <= 0) & (g < 0)) | ((x_adv >= 1) & (g > 0)), 0)


STEEPEST: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": steepest_linf,
    "l2": steepest_l2,
    "l1": steepest_l1,
    "patch": steepest_linf,  # pixels are free there
}


def uphill(g: Tensor, x_adv: Tensor, norm: str) -> Tensor:
    """STEEPEST[norm] of the gradient g at x_adv; for l1 in view of the walls of the box. Shapes (B, ...).

    For l1 the k pixels of `steepest_l1` are those of largest |g| among the ones that can move. Pixels of larger |g|
    that stand at 0 or 1 are sent on as well, beyond their wall: else a projection onto ball and box takes from them
    what it takes from all, and a search that starts in the ball ends where each step only gives it back.
    """
    if norm != "l1":
        return STEEPEST[norm](g)
    rows = g.flatten(1)
    size, order = _by_largest(rows).abs().sort(dim=1, descending=True)
    moves = (free(g, x_adv).flatten(1) != 0).gather(1, order)
    sent = size * (moves.cumsum(1) <= _few(rows.shape[1], PIXEL_SHARE))
    total = (sent * moves).sum(dim=1, keepdim=True)
    sent = sent / total.where(total > 0, 1)
    return (torch.zeros_like(rows).scatter(1, order, sent) * rows.sign()).view_as(g)


def _few(pixels: int, share: float) -> int:
    """How many pixels a step of l1 moves, if no wall is near."""
    return max(1, round(share * pixels))


def _by_largest(rows: Tensor) -> Tensor:
    """Rows (B, D) scaled so that the largest |entry| is 1; zero rows stay zero."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    return rows / largest.where(largest > 0, 1)
