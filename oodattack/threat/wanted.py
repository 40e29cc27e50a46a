"""What reports and lists say of a threat."""

from typing import Literal

from oodattack.threat.group import Suite, Threat, limits_of, members_of
from oodattack.threat.model import ON_A_SCORE, Aim, ThreatModel


def direction(threat: Threat) -> Aim | Literal["misclassify"]:
    """The aim of a threat model; a suite's is the one its members share, or that of the side they attack."""
    if isinstance(threat, ThreatModel) and threat.objective == "misclassify":
        return "misclassify"
    limits, aims = limits_of(threat), {m.aim for m in members_of(threat)}
    if len(aims) == 1:
        return aims.pop()
    return "hide" if not limits.attacks_id else "both" if limits.attacks_ood else "raise"


def in_short(threat: Threat) -> dict[str, str]:
    """Limits, searches and queries of an input, in words: the queries of all members, or those that they share."""
    one, members = limits_of(threat), members_of(threat)
    radii = [in_255ths(m.eps) if one.norm == "linf" else f"{m.eps:g}" for m in (members[0], members[-1])]
    limits = f"{one.norm} {' to '.join(dict.fromkeys(radii))}"
    limits += "" if one.limit is None else f", limit {one.limit:g}"
    limits += "" if one.severity is None else f", severity {one.severity}"
    limits += "" if one.after is None else f", after {one.after.name}"
    queries = one.queries  # of a sweep each radius has as many
    if isinstance(threat, Suite):
        queries = threat.queries or sum(m.queries for m in members)
    return {"limits": limits, "attack": ", ".join(dict.fromkeys(m.attack for m in members)), "queries": str(queries)}


def in_255ths(eps: float) -> str:
    """8/255 where that is what a number is, else the number."""
    steps = round(255 * eps)
    return f"{steps}/255" if 0 < steps < 255 and abs(255 * eps - steps) < 1e-9 else f"{eps:g}"


def whole_box(threat: Threat) -> bool:
    """Whether an attacker on a score may use the whole box, in every search: every detector must fall to that."""
    largest = all((m.norm, m.eps) == ("linf", 1) and m.aim in ON_A_SCORE for m in members_of(threat))
    return largest and in_a_ball(threat)


def in_a_ball(threat: Threat) -> bool:
    """Whether the ball is all that bounds an attacker: distortions have a limit of their own within it."""
    return all(m.limit is None and m.severity is None for m in members_of(threat))


def covers(other: Threat, threat: Threat) -> bool:
    """Whether `other` attacks every side that `threat` does."""
    its, own = limits_of(other), limits_of(threat)
    return its.attacks_id >= own.attacks_id and its.attacks_ood >= own.attacks_ood


def other_goal(threat: Threat) -> str | None:
    """What a search is after other than the score's extreme, in words; None where it, or a member, is after that.

    A search that brings the score to that of an ID image, or to a quantile up to the median, is as good: it leaves an
    AUROC of 0.5 or less. One that matches a latent or logits is not: where it cannot reach them, the nearest that it
    gets may be far from the lowest score. Searches for a threshold are judged by what it accepts.
    """
    goals = [_other_goal(m) for m in members_of(threat)]
    return None if None in goals else goals[0]


def _other_goal(threat: ThreatModel) -> str | None:
    if threat.quantile is not None and threat.quantile > 0.5:
        return f"the {threat.quantile:.0%} quantile of ID scores"
    if threat.match in ("latent", "logits"):
        return f"the {threat.match} of an ID image"
    if threat.objective in (None, "score"):
        return None
    return "a wrong class" if threat.objective == "misclassify" else f"the {threat.objective}"
