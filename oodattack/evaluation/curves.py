"""AUROC against queries."""

from collections.abc import Mapping, Sequence

import torch

from oodattack.attack import STOPPED, milestones
from oodattack.evaluation.outcome import ID, OOD, Outcome
from oodattack.evaluation.plan import Guide
from oodattack.evaluation.setup import Setup
from oodattack.metrics import auroc
from oodattack.report import Curve, Result
from oodattack.threat import ON_A_SCORE, ThreatModel

PACE = 0.4  # share of a row's gain in the second half of its queries; searches that settle have 0.3, steady ones 0.5
PACED = 10  # queries below which a search is a step or a few, and has no pace
FURTHER = 18  # more second halves make ten times as many queries in all


def with_curve(setup: Setup, guide: Guide, threat: ThreatModel, x: torch.Tensor, outcome: Outcome) -> Outcome:
    """The outcome with AUROC along the search, how far its restarts are apart, and what both say of its pace.

    All in the scale that the search follows. The outcome is unchanged where that is no scale of scores.
    """
    if threat.aim not in ON_A_SCORE or threat.objective == "misclassify":
        return outcome
    f = guide.judge or guide.f
    clean = {OOD: setup.values(f, x).cpu(), ID: setup.values(f, setup.id).cpu()}

    def left(field: str) -> list[float]:
        columns = {sign: getattr(side, field) for sign, side in outcome.signed}
        width = next(iter(columns.values())).shape[1]
        scores = [clean | {sign: column[:, i] for sign, column in columns.items()} for i in range(width)]
        return [auroc(some[ID].double().contiguous(), some[OOD].double().contiguous()) for some in scores]

    spread = None
    if threat.restarts > 1 and all(side.restarts is not None for side in outcome.sides):
        each = left("restarts")
        spread = max(each) - min(each)
    curve = None
    before = threat.after.queries if threat.after else 0  # what a row may have had before its first query here
    if all(side.history is not None for side in outcome.sides):
        curve = [(0.0, auroc(clean[ID], clean[OOD]))]
        curve += [(float(before + q), a) for q, a in zip(milestones(threat.queries), left("history"), strict=True)]
    return outcome._replace(
        curve=curve,
        curve_is_exact=guide.exact or guide.judge is not None,
        rising_share=None if guide.judge or threat.draws else rising(outcome, milestones(threat.queries)),
        unfinished_drop=unfinished(curve, after=before),
        unsettled_auroc=unsettled(clean, outcome, milestones(threat.queries)),
        restart_spread=spread,
    )


def unfinished(curve: Sequence[tuple[float, float]] | None, *, after: int = 0) -> float | None:
    """AUROC that the second half of a search's queries took; None without a curve.

    Args:
        curve: (queries, AUROC left).
        after: queries that were spent before the search began.
    """
    if not curve or len(curve) < 3:
        return None
    half = after + (curve[-1][0] - after) / 2
    return [a for q, a in curve if q <= half][-1] - curve[-1][1]


def unsettled(clean: Mapping[int, torch.Tensor], outcome: Outcome, at: Sequence[int]) -> float | None:
    """AUROC after ten times as many queries, at the pace of the second half: of a search that has not slowed down.

    Sets that stay apart hide such a search, whose steps are too short or too few: AUROC says 1 as long as they do.

    Args:
        clean: scores before the search by sign of the side, in the scale that it follows.
        outcome: with a history.
        at: queries of the history's columns; half of all of them is among these.

    Returns:
        None where the median row gained less than 40 % in the second half, or with fewer than 10 queries, or without a
        history.
    """
    if at[-1] < PACED:
        return None
    half, further, shares = at.index(at[-1] // 2 or 1), dict(clean), []
    for sign, side in outcome.signed:
        if side.history is None:
            return None
        before, middle, end = (s.double() for s in (clean[sign], side.history[:, half], side.history[:, -1]))
        further[sign] = end + FURTHER * (end - middle)
        shares.append((end - middle) / (end - before).where(end != before, 1))
    if torch.cat(shares).median() < PACE:
        return None
    return auroc(further[ID].double(), further[OOD].double())


def rising(outcome: Outcome, at: Sequence[int]) -> float | None:
    """Share of rows whose search ended above the loss of its own first step, or was finished by then.

    Args:
        outcome: with a history.
        at: queries of the history's columns; the first is the clean call, the second the first step.
    """
    if 2 not in at or at[-1] == 2:
        return None
    rose = []
    for sign, side in outcome.signed:
        if side.history is None:
            return None
        later = sign * side.history[:, -1] > sign * side.history[:, at.index(2)]
        rose.append(later | (side.stopped == STOPPED.index("target reached")))
    return torch.cat(rose).double().mean().item()


def search_curve(result: Result, outcome: Outcome) -> Curve:
    """The curve of one cell for the report."""
    return Curve(
        detector=result.detector,
        network=result.network,
        threat=result.threat,
        ood=result.ood,
        against="queries",
        points=outcome.curve or [],
        exact=outcome.curve_is_exact,
        eps50=None,
    )
