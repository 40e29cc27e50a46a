"""One cell, detector x threat x OOD set: from scores before and after to a record of the report."""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack import metrics
from oodattack.diagnose import Indicators, verdict
from oodattack.report import Deployed, Mape, Metrics, Result
from oodattack.report.record import Direction
from oodattack.threat import Suite, Threat

DRAWS = 2000  # of the bootstrap
BOOTSTRAP_SEED = 0  # intervals are part of the report, not of the attack: they do not move with the run's seed


class Side(NamedTuple):
    """One attacked set under one threat model and one detector. Tensors on the CPU, one entry a row."""

    scores: Tensor  # of the returned images, scored afresh
    scores_8bit: Tensor  # of the same images rounded to 8 bits
    distance: Tensor  # in the threat's norm
    queries: Tensor
    gradients: Tensor
    zero_gradients: Tensor
    non_finite: Tensor
    clean_best: Tensor  # True where nothing beat the clean input
    mape: Tensor | None  # for matching
    shown: Tensor  # a few of the images, for contact sheets


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


def worst(outcomes: dict[str, Outcome]) -> Outcome:
    """Each row at its worst over a suite's members: lowest OOD score, highest ID score."""
    first = next(iter(outcomes.values()))
    correlations = [o.rank_correlation for o in outcomes.values() if o.rank_correlation is not None]
    return Outcome(
        ood=_worst_side([o.ood for o in outcomes.values() if o.ood], sign=-1),
        id=_worst_side([o.id for o in outcomes.values() if o.id], sign=1),
        seconds=sum(o.seconds for o in outcomes.values()),
        attack=f"per-row worst of {', '.join(outcomes)}",
        white_box=any(o.white_box for o in outcomes.values()),
        surrogate=next((o.surrogate for o in outcomes.values() if o.surrogate), None),
        rank_correlation=min(correlations, default=None),
        shared_with=first.shared_with,
    )


def _worst_side(sides: list[Side], sign: int) -> Side | None:
    if not sides:
        return None
    scores = torch.stack([side.scores for side in sides])  # (members, N)
    pick = (sign * scores).argmax(dim=0)
    rows = torch.arange(len(pick))
    shown = show_rows(len(pick))
    return Side(
        scores=scores[pick, rows],
        scores_8bit=sign * (sign * torch.stack([s.scores_8bit for s in sides])).amax(dim=0),
        distance=torch.stack([s.distance for s in sides])[pick, rows],
        queries=torch.stack([s.queries for s in sides]).sum(dim=0),
        gradients=torch.stack([s.gradients for s in sides]).sum(dim=0),
        zero_gradients=torch.stack([s.zero_gradients for s in sides]).sum(dim=0),
        non_finite=torch.stack([s.non_finite for s in sides]).sum(dim=0),
        clean_best=torch.stack([s.clean_best for s in sides]).all(dim=0),
        mape=None,
        shown=torch.stack([s.shown for s in sides])[pick[shown], torch.arange(len(shown))],
    )


def show_rows(n: int, most: int = 8) -> Tensor:
    """Rows shown in contact sheets: evenly spaced, so that nobody picked them."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()


def numbers(id_scores: Tensor, ood_scores: Tensor) -> Metrics:
    """All metrics with their 95 % intervals, from raw scores."""
    spread = metrics.bootstrap(id_scores, ood_scores, draws=DRAWS, seed=BOOTSTRAP_SEED)
    return Metrics(
        auroc=metrics.auroc(id_scores, ood_scores),
        auroc_low=spread.auroc.low,
        auroc_high=spread.auroc.high,
        fpr_at_95_id_tpr=metrics.fpr_at_95_id_tpr(id_scores, ood_scores),
        fpr_at_95_id_tpr_low=spread.fpr_at_95_id_tpr.low,
        fpr_at_95_id_tpr_high=spread.fpr_at_95_id_tpr.high,
        fpr_at_95_ood_tpr=metrics.fpr_at_95_ood_tpr(id_scores, ood_scores),
        fpr_at_95_ood_tpr_low=spread.fpr_at_95_ood_tpr.low,
        fpr_at_95_ood_tpr_high=spread.fpr_at_95_ood_tpr.high,
        aupr=metrics.aupr(id_scores, ood_scores),
        n_id=len(id_scores),
        n_ood=len(ood_scores),
        ties=metrics.tie_share(id_scores, ood_scores),
    )


def deployed(clean_id: Tensor, id_scores: Tensor, ood_scores: Tensor) -> Deployed:
    """Acceptance at the threshold set on clean ID scores."""
    threshold = metrics.id_threshold(clean_id, tpr=0.95)
    accepted = [(s.double() <= threshold).double().mean().item() for s in (id_scores, ood_scores)]
    return Deployed(threshold=threshold, id_tpr=accepted[0], fpr=accepted[1])


def indicators(outcome: Outcome, *, matching: bool, random: float | None, full_box: float | None) -> Indicators:
    """How the search went, over all attacked rows."""
    sides = [side for side in (outcome.ood, outcome.id) if side]
    queries = sum(int(side.queries.sum()) for side in sides)
    gradients = sum(int(side.gradients.sum()) for side in sides)
    zero = sum(int(side.zero_gradients.sum()) for side in sides) / max(gradients, 1)
    stuck = torch.cat([side.clean_best for side in sides]).double().mean().item()
    return Indicators(
        white_box=outcome.white_box,
        zero_gradient_share=zero if outcome.white_box else None,
        non_finite_share=sum(int(side.non_finite.sum()) for side in sides) / queries,
        clean_best_share=None if matching else stuck,
        surrogate_rank_correlation=outcome.rank_correlation,
        random_auroc=random,
        full_box_auroc=full_box,
    )


class Shown(NamedTuple):
    """A few rows of one cell, for a contact sheet. Images (k, C, H, W), the rest (k,)."""

    result: Result
    reference: Tensor  # the matched target; else an ID image for comparison
    start: Tensor
    x_adv: Tensor
    reference_scores: Tensor
    start_scores: Tensor
    x_adv_scores: Tensor
    mape: Tensor | None
    side: str  # "ood" or "id": which set the rows are from


class Clean(NamedTuple):
    """Scores of a detector before any attack, and their metrics."""

    id: Tensor
    ood: Tensor
    metrics: Metrics


def record(
    name: str,
    threat: Threat,
    ood_name: str,
    clean: Clean,
    outcome: Outcome,
    members: dict[str, float] | None,
    found: Indicators,
) -> Result:
    """The record of one cell."""
    sides = [side for side in (outcome.ood, outcome.id) if side]
    id_scores = outcome.id.scores if outcome.id else clean.id
    ood_scores = outcome.ood.scores if outcome.ood else clean.ood
    attacked = numbers(id_scores, ood_scores)
    rounded = numbers(
        outcome.id.scores_8bit if outcome.id else clean.id, outcome.ood.scores_8bit if outcome.ood else clean.ood
    )
    decision, reason = verdict(clean.metrics.auroc, attacked.auroc, found)
    detector, _, network = name.partition("@")
    off = outcome.ood.mape if outcome.ood else None
    return Result(
        detector=detector,
        network=network,
        threat=threat.name,
        ood=ood_name,
        direction=direction(threat),
        attack=outcome.attack,
        surrogate=outcome.surrogate,
        shared_with=[other for other in outcome.shared_with if other != name],
        clean=clean.metrics,
        attacked=attacked,
        attacked_8bit=rounded,
        deployed=deployed(clean.id, id_scores, ood_scores),
        mape=None
        if off is None
        else Mape(median=off.median().item(), p90=off.double().quantile(0.9).item(), max=off.max().item()),
        distance=max(side.distance.max().item() for side in sides),
        queries=torch.cat([side.queries for side in sides]).double().mean().item(),
        seconds=outcome.seconds,
        members=members,
        indicators=found._asdict(),
        verdict=decision,
        reason=reason,
    )


def direction(threat: Threat) -> Direction:
    """The aim of a threat model; a suite's is the one its members share, or that of the side they attack."""
    if not isinstance(threat, Suite):
        return threat.aim
    aims = {member.aim for member in threat.members}
    if len(aims) == 1:
        return aims.pop()
    if not threat.members[0].attacks_id:
        return "hide"
    return "both" if threat.members[0].attacks_ood else "raise"
