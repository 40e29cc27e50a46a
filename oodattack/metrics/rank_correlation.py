"""Spearman's rank correlation."""

import torch
from torch import Tensor


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of the ranks of two score vectors; ties share their mean rank.

    Args:
        a: shape (N,), N >= 2, finite.
        b: shape (N,).

    Returns:
        In [-1, 1]; 0 when one of them is constant.
    """
    ranks = torch.stack([_mean_ranks(a), _mean_ranks(b)])
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    size = ranks.norm(dim=1).prod()
    found = float(ranks.prod(dim=0).sum() / size) if size > 0 else 0.0
    return min(1.0, max(-1.0, found))  # the last bit may stand above


def _mean_ranks(v: Tensor) -> Tensor:
    _, place, count = torch.unique(v.double(), return_inverse=True, return_counts=True)
    ranks: Tensor = (count.cumsum(0) - (count - 1).double() / 2)[place]  # in float32, correlations end above 1
    return ranks
