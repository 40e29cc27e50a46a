"""An independent opinion on whether an attack has made what looks like an ID image: then it proves nothing."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.report import Result

USUAL = 0.95  # share of ID images that a judge takes for what they are
MATERIAL = 0.1  # of the spread of ID images, between their 5th and 95th percentile: smaller moves make nothing else
MOST_ID_IMAGES = 1000  # ID images whose nearest neighbours tell what is usual
AT_ONCE = 64

FAR, NEAR, WAS_NEAR = "far from ID", "LOOKS LIKE ID", "was near before"


class Judge(NamedTuple):
    """Somebody who takes no part in an attack.

    Attributes:
        name: in words.
        score: (B, C, H, W) in [0, 1] -> (B,), higher means less like an ID image.
        threshold: score that 95 % of ID images do not exceed.
        detector: the detector@network whose score it is; None for what no attack is after.
        material: smallest fall of the score that makes something else of an image.
        images: number of ID images that threshold and material are from.
    """

    name: str
    score: Callable[[Tensor], Tensor]
    threshold: float
    detector: str | None = None
    material: float = 0.0
    images: int = 0

    def is_independent(self, result: Result) -> bool:
        """Whether the attack of a cell was after something else: another detector on other networks."""
        mine, attacked = self.detector, result.name
        if mine is None:
            return True
        shared = set(mine.partition("@")[2].split(",")) & set(result.network.split(",")) - {""}
        return mine != attacked and not shared

    def verdicts(self, before: Tensor, after: Tensor) -> list[str]:
        """For each row: far from ID images, made to look like one, or about as near to them before the attack.

        Args:
            before: scores of this judge before the attack, shape (B,).
            after: after it, shape (B,).
        """
        near = (after <= self.threshold).tolist()
        moved = ((before > self.threshold) & (before - after >= self.material)).tolist()
        return [FAR if not now else NEAR if made else WAS_NEAR for now, made in zip(near, moved, strict=True)]


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
    for rows in evenly(n, MOST_ID_IMAGES).split(AT_ONCE):
        apart = _apart(flat[rows], flat)
        apart[torch.arange(len(rows)), rows] = torch.inf  # itself
        usual.append(apart.amin(dim=1))
    name = "the root-mean-square distance of pixels to the nearest ID image"
    return judge_of(name, lambda x: nearest(x, x_id)[0], torch.cat(usual))


def judge_by(name: str, f: Callable[[Tensor], Tensor], x_id: Tensor) -> Judge:
    """Judges by another detector's score; not where its own network is attacked, see `Judge.is_independent`."""
    return judge_of(f"the score of {name}", f, f(x_id))._replace(detector=name)


def judge_of(name: str, score: Callable[[Tensor], Tensor], usual: Tensor) -> Judge:
    """The judge by a score, from the scores (N,) of ID images."""
    levels = torch.tensor([1 - USUAL, USUAL], dtype=torch.float64, device=usual.device)
    low, high = usual.double().quantile(levels).tolist()
    return Judge(name, score, high, material=MATERIAL * (high - low), images=len(usual))


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Root-mean-square distances, shape (len(a), len(b)); sums of squares, for the difference of squares cancels."""
    mode = "donot_use_mm_for_euclid_dist"
    apart: Tensor = torch.cdist(a, b, compute_mode=mode)
    return apart / math.sqrt(a.shape[1])
