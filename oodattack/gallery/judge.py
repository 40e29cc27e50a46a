"""An independent opinion on whether an attack has made what looks like an ID image: then it proves nothing."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.report import Result

USUAL = 0.95  # share of ID images that a judge takes for what they are
MOST = 1000  # ID images whose nearest neighbours tell what is usual
AT_ONCE = 64

FAR, NEAR, WAS_NEAR = "far from ID", "LOOKS LIKE ID", "was near before"


class Judge(NamedTuple):
    """Somebody who takes no part in an attack.

    Attributes:
        name: in words.
        score: (B, C, H, W) in [0, 1] -> (B,), higher means less like an ID image.
        threshold: score that 95 % of ID images do not exceed.
        detector: the detector@network whose score it is; None for what no attack is after.
    """

    name: str
    score: Callable[[Tensor], Tensor]
    threshold: float
    detector: str | None = None

    def is_independent(self, result: Result) -> bool:
        """Whether the attack of a cell was after something else: another detector on other networks."""
        mine, attacked = self.detector, result.name
        if mine is None:
            return True
        shared = set(mine.partition("@")[2].split(",")) & set(result.network.split(",")) - {""}
        return mine != attacked and not shared

    def verdicts(self, start: Tensor, x_adv: Tensor) -> list[str]:
        """For each row: far from ID images, made to look like one, or as near to them before the attack."""
        before, after = (self.score(x) <= self.threshold for x in (start, x_adv))
        return [
            FAR if not now else WAS_NEAR if then else NEAR
            for then, now in zip(before.tolist(), after.tolist(), strict=True)
        ]


def nearest(x: Tensor, x_id: Tensor) -> tuple[Tensor, Tensor]:
    """Root-mean-square distance in pixels to the nearest of some images, and which one that is.

    Args:
        x: shape (B, C, H, W).
        x_id: shape (N, C, H, W), N >= 1.

    Returns:
        Distances and numbers, shape (B,).
    """
    flat = x_id.flatten(1)
    parts = [_apart(block, flat).min(dim=1) for block in x.flatten(1).split(AT_ONCE)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def pixel_judge(x_id: Tensor) -> Judge:
    """Judges by the distance to the nearest ID image, against how far ID images are from their nearest others.

    Args:
        x_id: shape (N, C, H, W), N >= 2.

    Raises:
        ValueError: fewer than two images.
    """
    n = len(x_id)
    if n < 2:
        raise ValueError(f"`x_id` must hold at least 2 images, got {n}. Run with more samples.")
    flat = x_id.flatten(1)
    usual = []
    for rows in evenly(n, MOST).split(AT_ONCE):
        apart = _apart(flat[rows], flat)
        apart[torch.arange(len(rows)), rows] = torch.inf  # itself
        usual.append(apart.amin(dim=1))
    return Judge(
        name="the root-mean-square distance of pixels to the nearest ID image",
        score=lambda x: nearest(x, x_id)[0],
        threshold=torch.cat(usual).double().quantile(USUAL).item(),
    )


def judge_by(name: str, f: Callable[[Tensor], Tensor], x_id: Tensor) -> Judge:
    """Judges by another detector's score; not where its own network is attacked, see `Judge.is_independent`."""
    return Judge(f"the score of {name}", f, f(x_id).double().quantile(USUAL).item(), name)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Root-mean-square distances, shape (len(a), len(b)); sums of squares, for the difference of squares cancels."""
    mode = "donot_use_mm_for_euclid_dist"
    apart: Tensor = torch.cdist(a, b, compute_mode=mode)
    return apart / math.sqrt(a.shape[1])
