"""One cell, detector x threat x OOD set: from scores before and after to a record of the report."""

from typing import NamedTuple

import torch

from oodattack.attack import STOPPED
from oodattack.diagnose import Indicators, verdict
from oodattack.evaluation.floors import Floors
from oodattack.evaluation.outcome import Cell, Side
from oodattack.evaluation.shortfall import shortfall
from oodattack.evaluation.subject import Explained, Subject
from oodattack.metrics import auroc
from oodattack.numbers import accepted, crossing, deployed, matched, numbers
from oodattack.report import Certified, Result
from oodattack.threat import ON_A_SCORE, Threat, direction, in_a_ball, limits_of, members_of, other_goal, whole_box


class Checks(NamedTuple):
    """What a score was asked about a search on it, besides what the search says itself. None: nothing.

    Attributes:
        explained: how far its gradient explains what tells the sets apart.
        toward_lead: see `Toward.lead`.
        denied_auroc: see `denied_auroc`.
    """

    explained: Explained = Explained()
    toward_lead: float | None = None
    denied_auroc: float | None = None


def to_a_target(threat: Threat) -> bool:
    """Whether a search, or a member of it, goes to a given latent or score, and not as far as it can."""
    return any(m.aim in ("match", "quantile") for m in members_of(threat))


def follows_a_gradient(cell: Cell) -> bool:
    """Whether its search went down the gradient of the score, or of what stands in for it, as far as it could."""
    return cell.outcome.white_box and not to_a_target(cell.threat)


def indicators(cell: Cell, floors: Floors, subject: Subject, checks: Checks) -> Indicators:
    """How the search went on one OOD set, over all attacked rows.

    Args:
        cell: what was searched for, and what came of it.
        floors: what other searches of the run left.
        subject: the detector.
        checks: what the score was asked besides.
    """
    threat, outcome = cell.threat, cell.outcome
    stand_in = subject.stand_in and subject.stand_in.name
    itself = outcome.surrogate in (None, stand_in) and (outcome.white_box or subject.flat)  # the score was followed
    sides = outcome.sides
    queries = sum(int(side.queries.sum()) for side in sides)
    gradients = sum(int(side.gradients.sum()) for side in sides)
    zero = sum(int(side.zero_gradients.sum()) for side in sides) / max(gradients, 1)
    stuck = torch.cat([side.clean_best for side in sides]).double().mean().item()
    nearest = outcome.ood.crossing if outcome.ood and direction(threat) == "cross" else None
    before, after = (None, None) if nearest is None else accepted(nearest)
    return Indicators(
        white_box=outcome.white_box and gradients > 0,
        zero_gradient_share=zero if outcome.white_box else None,
        non_finite_share=sum(int(side.non_finite.sum()) for side in sides) / max(queries, 1),
        clean_best_share=None if to_a_target(threat) else stuck,
        surrogate_rank_correlation=outcome.rank_correlation,
        random_auroc=floors.random,
        full_box_auroc=floors.full_box,
        misled_share=checks.explained.misled_share,
        unexplained_share=checks.explained.unexplained_share,
        gradient_trouble=subject.trouble[cell.ood.name] if itself else None,
        rising_share=outcome.rising_share,
        unfinished_drop=outcome.unfinished_drop,
        unsettled_auroc=outcome.unsettled_auroc,
        white_box_auroc=floors.white_box if outcome.members else None,
        black_box_auroc=floors.black_box,
        smaller_eps_auroc=floors.smaller_eps,
        transfer_auroc=floors.transfer,
        rival_auroc=floors.rival,
        toward_lead=checks.toward_lead,
        denied_auroc=checks.denied_auroc,
        restart_spread=outcome.restart_spread,
        other_goal=other_goal(threat),
        shortfall=shortfall(threat, white_box=outcome.white_box),
        accepted_before=before,
        accepted_after=after,
        id_against_id=limits_of(threat).start == "id",
        repeatable=subject.repeatable,
        row_independent=subject.row_independent,
    )


def denied_auroc(cell: Cell, subject: Subject) -> float | None:
    """AUROC if all attacked scores went on by what the denied part r of their slope can do within the limits at most.

    eps ||r||_1 <= eps sqrt(D) ||r||_2 in linf, eps ||r||_2 in l2, where D is the number of values in an image. None for
    other norms, for searches that are not after the score, and where nothing is known of r, see `Probe.denied`.
    """
    limits, slope = limits_of(cell.threat), subject.denied.get(cell.ood.name)
    plain = limits.aim in ON_A_SCORE and limits.norm in ("linf", "l2") and in_a_ball(cell.threat)
    if slope is None or not (plain and cell.outcome.white_box):
        return None
    far = limits.eps * slope * (cell.ood.x[0].numel() ** 0.5 if limits.norm == "linf" else 1)
    id_scores, ood_scores = (scores.double() for scores in cell.attacked())
    return auroc(id_scores + far * limits.attacks_id, ood_scores - far * limits.attacks_ood)


def record(cell: Cell, found: Indicators) -> Result:
    """The record of one cell."""
    threat, clean, outcome = cell.threat, cell.clean, cell.outcome
    sides = outcome.sides
    id_scores, ood_scores = cell.attacked()
    attacked = numbers(id_scores, ood_scores)
    decision, reason = verdict(clean.metrics.auroc, attacked.auroc, found)
    detector, _, network = cell.detector.partition("@")
    off, nearest = (outcome.ood.mape, outcome.ood.crossing) if outcome.ood else (None, None)
    return Result(
        detector=detector,
        network=network,
        threat=threat.name,
        ood=cell.ood.name,
        direction=direction(threat),
        whole_box=whole_box(threat),
        attack=outcome.attack,
        surrogate=outcome.surrogate,
        shared_with=[other for other in outcome.shared_with if other != cell.detector],
        clean=clean.metrics,
        attacked=attacked,
        attacked_8bit=numbers(*cell.attacked("scores_8bit")),
        deployed=deployed(clean.id, id_scores, ood_scores),
        mape=None if off is None else matched(off),
        crossing=None if nearest is None else crossing(clean.id, nearest),
        stopped=stopped(sides) if any(m.aim == "match" for m in members_of(threat)) else None,
        distance=max(side.distance.max().item() for side in sides),
        queries=torch.cat([side.queries for side in sides]).double().mean().item(),
        non_finite_rows=sum(int((side.non_finite > 0).sum()) for side in sides),
        seconds=outcome.seconds,
        members=outcome.members,
        indicators=found._asdict(),
        verdict=decision,
        reason=reason,
    )


def certified(result: Result, found: Certified | str) -> Result:
    """The record of a cell with its guarantee, or with the reason why it has none."""
    if isinstance(found, str):
        return result.model_copy(update={"uncertified": found})
    return result.model_copy(update={"certified": found, "certified_auroc": found.auroc})


def stopped(sides: list[Side]) -> dict[str, float]:
    """Share of rows by the reason for which their search ended."""
    codes = torch.cat([side.stopped for side in sides])
    return {reason: (codes == i).double().mean().item() for i, reason in enumerate(STOPPED) if (codes == i).any()}
