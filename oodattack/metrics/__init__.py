"""Numbers from two vectors of scores, ID and OOD. Scores are OOD-high and OOD is the positive class, always."""

from oodattack.metrics.aupr import aupr
from oodattack.metrics.auroc import auroc, tie_share
from oodattack.metrics.bootstrap import Draws, Interval, Intervals, bootstrap, bootstrap_draws
from oodattack.metrics.fpr import fpr_at_95_id_tpr, fpr_at_95_ood_tpr, fpr_at_id_tpr, fpr_at_ood_tpr, id_threshold
from oodattack.metrics.rank_correlation import rank_correlation
from oodattack.metrics.same_scores import same_scores

__all__ = [
    "Draws",
    "Interval",
    "Intervals",
    "aupr",
    "auroc",
    "bootstrap",
    "bootstrap_draws",
    "fpr_at_95_id_tpr",
    "fpr_at_95_ood_tpr",
    "fpr_at_id_tpr",
    "fpr_at_ood_tpr",
    "id_threshold",
    "rank_correlation",
    "same_scores",
    "tie_share",
]
