"""From the scores of two sets to the numbers of a report."""

import math

from torch import Tensor

from oodattack import metrics
from oodattack.report import Crossing, Deployed, Mape, Metrics

DRAWS = 2000  # of the bootstrap
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
    threshold = metrics.id_threshold(clean_id, tpr=0.95)
    accepted = [(s.double() <= threshold).double().mean().item() for s in (id_scores, ood_scores)]
    return Deployed(threshold=threshold, id_tpr=accepted[0], fpr=accepted[1])


def matched(off: Tensor) -> Mape:
    """Distances left to targets, over rows."""
    return Mape(median=off.median().item(), p90=off.double().quantile(0.9).item(), max=off.max().item())


def crossing(clean_id: Tensor, found: Tensor) -> Crossing:
    """Smallest perturbations that the deployed threshold accepts; rows where none was found count as infinite."""
    some = found.double().isfinite()
    at = [found.double().quantile(q, interpolation="lower").item() for q in (0.1, 0.5, 0.9)]
    p10, median, p90 = (value if math.isfinite(value) else None for value in at)
    threshold = metrics.id_threshold(clean_id, tpr=0.95)
    return Crossing(threshold=threshold, share=some.double().mean().item(), p10=p10, median=median, p90=p90)
