"""What a report says that a threat wants."""

from typing import Literal

from oodattack.threat.group import Threat, limits_of, members_of
from oodattack.threat.model import Aim, ThreatModel


def direction(threat: Threat) -> Aim | Literal["misclassify"]:
    """The aim of a threat model; a suite's is the one its members share, or that of the side they attack."""
    if isinstance(threat, ThreatModel) and threat.objective == "misclassify":
        return "misclassify"
    limits, aims = limits_of(threat), {m.aim for m in members_of(threat)}
    if len(aims) == 1:
        return aims.pop()
    return "hide" if not limits.attacks_id else "both" if limits.attacks_ood else "raise"


def other_goal(threat: Threat) -> str | None:
    """What a search is after other than the score's extreme, in words; None where it, or a member, is after that.

    Matching and quantiles up to the median are as good: they leave an AUROC of 0.5 or less. Searches for a threshold
    are judged by what it accepts.
    """
    goals = [_other_goal(m) for m in members_of(threat)]
    return None if None in goals else goals[0]


def _other_goal(limits: ThreatModel) -> str | None:
    if limits.quantile is not None and limits.quantile > 0.5:
        return f"the {limits.quantile:.0%} quantile of ID scores"
    if limits.objective in (None, "score"):
        return None
    return "a wrong class" if limits.objective == "misclassify" else f"the {limits.objective}"
