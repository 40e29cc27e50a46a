"""How far every row may be moved before its decision can change: the largest radius that the bounds certify."""

from typing import Any

import torch
from torch import Tensor

from oodattack.bounds.score_bounds import score_bounds


def row_radius(
    detector: Any, x: Tensor, *, norm: str, threshold: float, most: float, rounds: int = 8, deep: bool = True
) -> Tensor:
    """Largest eps found, by bisection in 0..most, at which the bounds leave a row on its side of the threshold.

    An input is called OOD where its score is > threshold. A row is certified at the radius that is returned, not only
    between radii that were tried, and so at every smaller one.

    Args:
        detector: as in `score_bounds`.
        x: images, shape (N, C, H, W), in [0, 1].
        norm: "linf" or "l2".
        threshold: scores above it are OOD.
        most: radius beyond which nobody asks, > 0.
        rounds: halvings, >= 1; the radius is exact to most / 2^rounds from below.
        deep: as in `score_bounds`.

    Returns:
        Radii, shape (N,), in 0..most, float64, on the CPU.

    Raises:
        ValueError: as `score_bounds`, or no rounds, or a `most` that is not positive.
    """
    if rounds < 1 or not most > 0:
        raise ValueError(f"`rounds` must be >= 1 and `most` > 0, got {rounds} and {most}. Correct them.")

    def holds(eps: Tensor) -> Tensor:
        bounds = score_bounds(detector, x, norm=norm, eps=eps.to(x.device), deep=deep)
        return torch.where(bounds.clean > threshold, bounds.lower > threshold, bounds.upper <= threshold)

    known = torch.zeros(len(x), dtype=torch.float64)
    step = torch.full_like(known, most)
    whole = holds(step)
    for _ in range(rounds):
        step = step / 2
        known = torch.where(holds(known + step), known + step, known)
    return torch.where(whole, torch.full_like(known, most), known)
