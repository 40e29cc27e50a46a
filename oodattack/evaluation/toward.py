"""Moves straight from one set toward the other: they cost a few calls of the score, and follow no gradient of it."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.evaluation.floors import bounds
from oodattack.evaluation.outcome import ID, OOD, Cell, OodSet
from oodattack.evaluation.setup import Setup
from oodattack.geometry import uphill
from oodattack.metrics import auroc
from oodattack.threat import ON_A_SCORE, ThreatModel, in_a_ball, limits_of

BLURS = (2, 4, 8)  # sides of the boxes between one band of frequencies and the next
ROWS = 64  # of a set that are moved
OF_MEANS = 512  # images whose mean stands for that of their set
NORMS = ("linf", "l2", "l1")


class Toward:
    """Scores of a few rows of each set at the worst of four moves, found once for each detector and limits.

    A row goes as far as its limits allow along a band of frequencies of mean(ID images) - mean(OOD images), or the
    other way if it is an ID image. Where a score is the least of several, or one of them opens a gate for another, its
    gradient is truthful, and leads a search along the one that happens to count first; these moves do not ask it.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._bands: dict[str, list[Tensor]] = {}
        self._moved: dict[tuple[object, ...], Tensor] = {}

    def lead(self, cell: Cell) -> float | None:
        """AUROC that the search left on these rows minus AUROC that the moves leave, > 0 where they are stronger.

        None for searches of other kinds, and for scores that differ from call to call: the lowest of several calls
        would only be the luckiest.
        """
        limits, clean = limits_of(cell.threat), cell.clean
        plain = limits.aim in ON_A_SCORE and limits.norm in NORMS and limits.after is None and in_a_ball(cell.threat)
        if not (plain and cell.outcome.white_box and self.setup.subjects[cell.detector].repeatable):
            return None
        searched = dict(zip((ID, OOD), cell.attacked(), strict=True))
        moved = {ID: clean.id, OOD: clean.ood}
        for sign, _ in cell.outcome.signed:
            images = self.setup.id if sign == ID else cell.ood.x
            rows = evenly(len(images), ROWS)
            key = (cell.detector, cell.ood.name, bounds(limits), sign)
            if key not in self._moved:
                some = images[rows.to(images.device)]
                self._moved[key] = self._worst(cell.detector, limits, cell.ood, some, moved[sign][rows], sign)
            searched[sign], moved[sign] = searched[sign][rows], self._moved[key]
        return auroc(searched[ID], searched[OOD]) - auroc(moved[ID], moved[OOD])

    def _worst(
        self, detector: str, limits: ThreatModel, ood: OodSet, images: Tensor, before: Tensor, sign: int
    ) -> Tensor:
        """Highest score of each ID image, or lowest of each OOD image, before and after the moves, shape (N,)."""
        if ood.name not in self._bands:
            self._bands[ood.name] = list(bands(mean_of(self.setup.id) - mean_of(ood.x)))
        worst = sign * before
        for band in self._bands[ood.name]:
            up = uphill((-sign * band).expand_as(images), images, limits.norm)
            moved = limits.project(images + limits.reach * up, images)
            scores = self.setup.score(detector, moved, "images", finite=False)
            worst = torch.maximum(worst, sign * scores.where(scores.isfinite(), before))
        return sign * worst


def mean_of(x: Tensor) -> Tensor:
    """Mean image of at most 512, shape (C, H, W); a few are in memory at a time."""
    rows = evenly(len(x), OF_MEANS)
    total = torch.zeros_like(x[0])
    for some in rows.split(ROWS):
        total += x[some.to(x.device)].sum(dim=0)
    return total / len(rows)


def bands(difference: Tensor) -> Iterator[Tensor]:
    """What box blurs of 2, 4 and 8 pixels take from an image (C, H, W), one after the other, and what they leave."""
    left = difference[None]
    for side in BLURS:
        before = side // 2
        padded = F.pad(left, (before, side - 1 - before) * 2, mode="replicate")
        smooth = F.avg_pool2d(padded, side, stride=1)
        yield (left - smooth)[0]
        left = smooth
    yield left[0]
