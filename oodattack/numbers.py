"""From the scores of two sets to the numbers of a report, and from these to curves."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from oodattack import metrics
from oodattack.report import Crossing, Curve, Deployed, Mape, Metrics, Result
from oodattack.threat import Sweep

DRAWS = 2000  # of the bootstrap
TPR = 0.95  # of the deployed threshold
CHANCE = 0.5  # AUROC
BOOTSTRAP_SEED = 0  # intervals are part of the report, not of the attack: they do not move with the run's seed


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
    threshold = metrics.id_threshold(clean_id, tpr=TPR)
    accepted = [(s.double() <= threshold).double().mean().item() for s in (id_scores, ood_scores)]
    return Deployed(threshold=threshold, id_tpr=accepted[0], fpr=accepted[1])


def matched(off: Tensor) -> Mape:
    """Distances left to targets, over rows."""
    median, p90 = (off.double().quantile(q).item() for q in (0.5, 0.9))
    return Mape(median=median, p90=p90, max=off.max().item())


def crossing(clean_id: Tensor, found: Tensor) -> Crossing:
    """Smallest perturbations that the deployed threshold accepts; rows where none was found count as infinite."""
    some = found.double().isfinite()
    at = [found.double().quantile(q, interpolation="lower").item() for q in (0.1, 0.5, 0.9)]
    p10, median, p90 = (value if math.isfinite(value) else None for value in at)
    threshold = metrics.id_threshold(clean_id, tpr=TPR)
    return Crossing(threshold=threshold, share=some.double().mean().item(), p10=p10, median=median, p90=p90)


def accepted(found: Tensor) -> tuple[float, float]:
    """Share of rows that the deployed threshold accepts: as they are, and with the smallest perturbations found."""
    return (found == 0).double().mean().item(), found.isfinite().double().mean().item()


def eps_curves(sweep: Sweep, results: Sequence[Result]) -> list[Curve]:
    """One curve a detector from the records of a sweep's radii, with the radius that leaves AUROC 0.5."""
    radii = {m.name: m.eps for m in sweep.members}
    curves = []
    for key in dict.fromkeys((r.detector, r.network) for r in results):
        mine = [r for r in results if (r.detector, r.network) == key and r.threat in radii]
        if not mine:
            continue
        points = [(0.0, mine[0].clean.auroc), *[(radii[r.threat], r.attacked.auroc) for r in mine]]
        bounds = [(radii[r.threat], r.certified_auroc) for r in mine if r.certified_auroc is not None]
        curves.append(
            Curve(
                detector=key[0],
                network=key[1],
                threat=sweep.name,
                ood=mine[0].ood,
                against="eps",
                points=points,
                exact=True,
                eps50=falls_to_chance(points),
                certified=[(0.0, mine[0].clean.auroc), *bounds] if bounds else None,
            )
        )
    return curves


def falls_to_chance(points: Sequence[tuple[float, float]]) -> float | None:
    """Where a curve first falls to AUROC 0.5, by linear interpolation; None where it does not get there."""
    for (a, high), (b, low) in pairwise(points):
        if high <= CHANCE:
            return a
        if low <= CHANCE:
            return a + (b - a) * (high - CHANCE) / (high - low)
    return points[-1][0] if points[-1][1] <= CHANCE else None
