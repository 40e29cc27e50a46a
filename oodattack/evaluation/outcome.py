"""What came out of the searches on one set: one entry a row, on the CPU."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.data.disk import Room, pieces
from oodattack.data.rows import evenly
from oodattack.metrics import auroc
from oodattack.report import Metrics
from oodattack.threat import Suite, Threat, ThreatModel, limits_of

SHOWN = 8  # rows at most
ID, OOD = 1, -1  # the sign of a side: ID rows want to score high, OOD rows low


class Clean(NamedTuple):
    """Scores of a detector before any attack, and their metrics."""

    id: Tensor
    ood: Tensor
    metrics: Metrics


class OodSet(NamedTuple):
    """Images that a detector should score high, shape (N, C, H, W), and their name."""

    name: str
    x: Tensor


class Side(NamedTuple):
    """One attacked set under one threat model and one detector. Tensors on the CPU, one entry a row."""

    scores: Tensor  # of the returned images, scored afresh
    again: Tensor  # the same from another call where scores are random: the best of several, by `scores`, may be luck
    scores_8bit: Tensor  # of the same images rounded to 8 bits
    distance: Tensor  # in the threat's norm
    queries: Tensor
    gradients: Tensor
    zero_gradients: Tensor
    non_finite: Tensor
    clean_best: Tensor  # True where nothing beat the clean input
    stopped: Tensor  # index of `attack.STOPPED`
    mape: Tensor | None  # for matching
    crossing: Tensor | None  # smallest distance that the deployed threshold accepts, infinite where none was found
    history: Tensor | None  # (N, milestones), best score so far in the scale that the search follows
    restarts: Tensor | None  # (N, restarts), best score of each, in that scale
    shown: Tensor  # a few of the images, for contact sheets
    images: Tensor | None = None  # all of them, where a keeper wants them, possibly on disk
    images_8bit: Tensor | None = None  # (N, C, H, W), where `scores_8bit` are not those of `images` rounded
    start: Tensor | None = None  # images that `distance` is measured from
    seconds: float = 0.0  # of the search, which several detectors may share


class Scored(NamedTuple):
    """A side and all of its images, which are dropped as soon as nobody goes on from them."""

    side: Side
    x_adv: Tensor  # on the device of the search


class Outcome(NamedTuple):
    """What one threat model did to one detector on one OOD set."""

    ood: Side | None
    id: Side | None
    seconds: float
    attack: str
    white_box: bool
    surrogate: str | None
    rank_correlation: float | None
    shared_with: list[str]
    curve: list[tuple[float, float]] | None = None  # (queries, AUROC) along the search
    curve_is_exact: bool = True  # the scale of the search orders inputs as the detector does
    rising_share: float | None = None  # rows that ended above the loss of their first step
    unfinished_drop: float | None = None  # AUROC that the second half of the queries took
    unsettled_auroc: float | None = None  # see `curves.unsettled`
    restart_spread: float | None = None  # largest minus smallest AUROC that a single restart leaves
    members: dict[str, float] | None = None  # of a suite: AUROC left by each member, or after its first turn
    found_blindly: float | None = None  # AUROC that searches without gradients took after those with, in such a suite

    @property
    def sides(self) -> list[Side]:
        """Those that were attacked."""
        return [side for _, side in self.signed]

    @property
    def signed(self) -> list[tuple[int, Side]]:
        """Those that were attacked, each with its sign."""
        return [(sign, side) for sign, side in ((OOD, self.ood), (ID, self.id)) if side]


class Cell(NamedTuple):
    """What a report has one record about: a detector, a threat and an OOD set.

    Attributes:
        detector: its name.
        threat: a threat model, or a suite.
        ood: the OOD set.
        clean: the detector's scores before the attack.
        outcome: what the threat did to the detector on that set.
    """

    detector: str
    threat: ThreatModel | Suite
    ood: OodSet
    clean: Clean
    outcome: Outcome

    def attacked(self, field: str = "scores") -> tuple[Tensor, Tensor]:
        """ID and OOD scores after the attack, see `attacked_scores`."""
        return attacked_scores(self.clean, self.outcome, field)


def attacked_scores(clean: Clean, outcome: Outcome, field: str = "scores") -> tuple[Tensor, Tensor]:
    """ID and OOD scores after the attack; those of a side that was left alone are the clean ones."""
    on_id = getattr(outcome.id, field) if outcome.id else clean.id
    on_ood = getattr(outcome.ood, field) if outcome.ood else clean.ood
    return on_id, on_ood


def left_auroc(clean: Clean, outcome: Outcome, *, like: Threat | None = None) -> float:
    """AUROC after one threat; with `like`, of the sides alone that this one attacks."""
    on_id, on_ood = attacked_scores(clean, outcome)
    if like is not None:
        limits = limits_of(like)
        on_id, on_ood = on_id if limits.attacks_id else clean.id, on_ood if limits.attacks_ood else clean.ood
    return auroc(on_id, on_ood)


def worst(outcomes: dict[str, Outcome], room: Room = torch.empty_like) -> Outcome:
    """Each row at its worst over a suite's members: lowest OOD score, highest ID score. `room` is for its images."""
    first = next(iter(outcomes.values()))
    correlations = [o.rank_correlation for o in outcomes.values() if o.rank_correlation is not None]
    return Outcome(
        ood=worst_side([o.ood for o in outcomes.values() if o.ood], sign=OOD, room=room),
        id=worst_side([o.id for o in outcomes.values() if o.id], sign=ID, room=room),
        seconds=sum(o.seconds for o in outcomes.values()),
        attack=f"per-row worst of {', '.join(outcomes)}",
        white_box=any(o.white_box for o in outcomes.values()),
        surrogate=next((o.surrogate for o in outcomes.values() if o.surrogate), None),
        rank_correlation=min(correlations, default=None),
        shared_with=first.shared_with,
    )


def worst_side(sides: list[Side], sign: int, room: Room = torch.empty_like) -> Side | None:
    """Each row from the side where its score is worst, with the queries of all; in 8 bits where that score is."""
    if not sides:
        return None
    in_8_bits = sign * torch.stack([side.scores_8bit for side in sides])
    pick = (sign * torch.stack([side.scores for side in sides])).argmax(dim=0)
    rows = torch.arange(len(pick))
    shown = show_rows(len(pick))
    crossings = [side.crossing for side in sides if side.crossing is not None]

    def picked(field: str) -> Tensor:
        return torch.stack([getattr(side, field) for side in sides])[pick, rows]

    def summed(field: str) -> Tensor:
        return torch.stack([getattr(side, field) for side in sides]).sum(dim=0)

    return Side(
        scores=picked("again"),
        again=picked("again"),
        scores_8bit=sign * in_8_bits.amax(dim=0),
        distance=picked("distance"),
        queries=summed("queries"),
        gradients=summed("gradients"),
        zero_gradients=summed("zero_gradients"),
        non_finite=summed("non_finite"),
        clean_best=torch.stack([s.clean_best for s in sides]).all(dim=0),
        stopped=picked("stopped"),
        mape=None,
        crossing=torch.stack(crossings).amin(dim=0) if crossings else None,
        history=None,
        restarts=None,
        shown=torch.stack([s.shown for s in sides])[pick[shown], torch.arange(len(shown))],
        images=picked_images([side.images for side in sides], pick, room),
        images_8bit=picked_images([side.images for side in sides], in_8_bits.argmax(dim=0), room, in_8_bits=True),
        start=picked_images([side.start for side in sides], pick, room),
    )


def picked_images(
    choices: Sequence[Tensor | None], pick: Tensor, room: Room, *, in_8_bits: bool = False
) -> Tensor | None:
    """Row i from images number pick[i], on the CPU, or rounded to 8 bits; None where nobody kept them."""
    kept = [images for images in choices if images is not None]
    if len(kept) < len(choices):
        return None
    if not in_8_bits and all(images is kept[0] for images in kept):
        return kept[0]
    out = room(torch.empty((), dtype=torch.uint8 if in_8_bits else kept[0].dtype).expand(kept[0].shape))
    for part in pieces(len(pick)):
        rows = torch.arange(part.start, part.stop)
        for i, images in enumerate(kept):
            mine = rows[pick[rows] == i]
            found = images[mine.to(images.device)].cpu()
            out[mine] = to_8_bits(found) if in_8_bits else found
    return out


def to_8_bits(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to uint8."""
    return (images * 255).round().to(torch.uint8)


def show_rows(n: int) -> Tensor:
    """Rows shown in contact sheets."""
    return evenly(n, SHOWN)
