"""From bounds of scores to bounds of AUROC and FPR, under an attacker who may change every attacked image.

AUROC and both FPRs get no worse where an OOD score rises or an ID score falls. Each image is attacked by itself, so the
worst an attacker can do is no worse than all OOD scores at their lower and all ID scores at their upper bounds at once:

    auroc(u_id, l_ood) <= AUROC under attack <= auroc(a_id, a_ood),

with l <= score(x') <= u certified and a the scores of images that an attack has found. A side that nobody attacks has
bounds too, of radius 0: rounding and, for a smoothed score, chance. GOOD and ProoD report the left side for attacked
OOD inputs (Bitterwolf, Meinke & Hein, NeurIPS 2020, arXiv:2007.08473).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.bounds.score_bounds import ScoreBounds
from oodattack.metrics import auroc, fpr_at_95_id_tpr, fpr_at_95_ood_tpr, id_threshold
from oodattack.metrics.auroc import score_vector


class Guarantee(NamedTuple):
    """What is left of a detector under any attack within the limits.

    Attributes:
        auroc: at least this.
        fpr_at_95_id_tpr: at most this, where the threshold is set on the attacked ID scores.
        fpr_at_95_ood_tpr: at most this.
        fpr_deployed: at most this share of OOD inputs passes the threshold that accepts 95 % of the clean ID inputs.
    """

    auroc: float
    fpr_at_95_id_tpr: float
    fpr_at_95_ood_tpr: float
    fpr_deployed: float


def worst_scores(id_bounds: ScoreBounds, ood_bounds: ScoreBounds) -> tuple[Tensor, Tensor]:
    """The ID and OOD scores that are certainly no better than what an attacker leaves, shapes (N,) and (M,), finite.

    Args:
        id_bounds: of N ID inputs, of radius 0 where nobody raises them.
        ood_bounds: of M OOD inputs, of radius 0 where nobody hides them.
    """
    most = torch.finfo(torch.float64).max
    return id_bounds.upper.clamp(-most, most).contiguous(), ood_bounds.lower.clamp(-most, most).contiguous()


def guarantee(id_bounds: ScoreBounds, ood_bounds: ScoreBounds) -> Guarantee:
    """AUROC and FPRs at the worst scores that the bounds allow. Arguments as `worst_scores`."""
    id_scores, ood_scores = worst_scores(id_bounds, ood_bounds)
    deployed = id_threshold(id_bounds.clean, tpr=0.95)
    return Guarantee(
        auroc=auroc(id_scores, ood_scores),
        fpr_at_95_id_tpr=fpr_at_95_id_tpr(id_scores, ood_scores),
        fpr_at_95_ood_tpr=fpr_at_95_ood_tpr(id_scores, ood_scores),
        fpr_deployed=(ood_scores <= deployed).double().mean().item(),
    )


def undecided_share(worst: tuple[Tensor, Tensor], attacked: tuple[Tensor, Tensor]) -> float:
    """Share of the ID-OOD pairs that are neither certified to be in order nor shown to be out of it.

    A pair is certified where its worst scores are in order, ood > id, and broken where its attacked ones are not. In a
    sandwich without ties this is the attacked minus the certified AUROC.

    Args:
        worst: ID and OOD scores of `worst_scores`, shapes (N,) and (M,).
        attacked: ID and OOD scores of the same rows after an attack.

    Raises:
        ValueError: other numbers of rows, or scores that are not finite.
    """
    (id_worst, ood_worst), (id_attacked, ood_attacked) = (
        (score_vector(i, "ID"), score_vector(o, "OOD")) for i, o in (worst, attacked)
    )
    if len(id_worst) != len(id_attacked) or len(ood_worst) != len(ood_attacked):
        counts = f"{len(id_attacked)} and {len(ood_attacked)} for {len(id_worst)} and {len(ood_worst)}"
        raise ValueError(f"`attacked` must have the rows of `worst`, got {counts}. Score the same images.")
    order = id_worst.sort().values
    certified = int(torch.searchsorted(order, ood_worst.contiguous(), right=False).sum())
    left = int(torch.searchsorted(id_attacked.sort().values, ood_attacked.contiguous(), right=False).sum())
    return max(left - certified, 0) / (len(id_worst) * len(ood_worst))
