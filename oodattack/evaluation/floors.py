"""What other threats of the same run say about one: floors that its search must beat."""

from collections.abc import Mapping
from typing import NamedTuple

from oodattack.evaluation.outcome import Cell, Outcome, left_auroc
from oodattack.evaluation.plan import is_blind
from oodattack.threat import Suite, Threat, ThreatModel, covers, limits_of, whole_box


class Floors(NamedTuple):
    """Smallest AUROC left by other searches on the same detector and sets. None: there was none."""

    random: float | None  # random draws within the same limits
    black_box: float | None  # any other search without gradients within the same limits
    transfer: float | None  # a search on the network's logits, judged by the score, within the same limits
    rival: float | None  # any other threat within the same limits, suites too
    white_box: float | None  # searches on the score with gradients within the same limits
    smaller_eps: float | None  # within a smaller ball of the same norm
    full_box: float | None  # within the whole box


def floors_of(cell: Cell, outcomes: Mapping[Threat, Outcome]) -> Floors:
    """What a detector's other outcomes on the same sets say about the search of one.

    A suite whose members share their queries is its own witness: what its blind members took after the others is what
    a black box does better.
    """
    threat, clean, outcome = cell.threat, cell.clean, cell.outcome
    like = {t: left_auroc(clean, o, like=threat) for t, o in outcomes.items() if covers(t, threat)}
    singles = {t: a for t, a in like.items() if isinstance(t, ThreatModel)}
    found = floors(threat, singles, {t: a for t, a in like.items() if isinstance(t, Suite)})
    if outcome.found_blindly is None:
        return found
    own = left_auroc(clean, outcome)
    lowest = own if found.black_box is None else min(own, found.black_box)
    return found._replace(white_box=own + outcome.found_blindly, black_box=lowest)


def floors(
    threat: Threat,
    like: Mapping[ThreatModel, float],
    suites: Mapping[Suite, float],
) -> Floors:
    """Sort the other searches of a run by what they say about this one.

    Args:
        threat: the one that is judged; it is left out itself, the members of a suite are not.
        like: AUROC after each threat model of the run that attacks the sides that `threat` does, of these alone.
        suites: the same of suites.
    """
    limits = limits_of(threat)
    on_score = {m: a for m, a in like.items() if m.objective != "misclassify"}
    within = {m: a for m, a in on_score.items() if bounds(m) == bounds(limits)}
    others = {m: a for m, a in within.items() if m != threat}
    smaller = [a for m, a in on_score.items() if bounds(m) == (*bounds(limits)[:-1], m.eps) and m.eps < limits.eps]
    boxes = [a for m, a in like.items() if whole_box(m)] + [a for s, a in suites.items() if whole_box(s)]
    rivals = [a for s, a in suites.items() if s != threat and {bounds(m) for m in s.members} == {bounds(limits)}]

    def least(chosen: list[float]) -> float | None:
        return min(chosen, default=None)

    return Floors(
        random=least([a for m, a in others.items() if m.attack == "random-search"]),
        black_box=least([a for m, a in others.items() if is_blind(m) and m.attack != "random-search"]),
        transfer=least([a for m, a in others.items() if m.objective == "logits" and not is_blind(m)]),
        rival=least([*others.values(), *rivals]),
        white_box=least([a for m, a in within.items() if m.objective == "score" and not is_blind(m)]),
        smaller_eps=least(smaller),
        full_box=least(boxes),
    )


def bounds(limits: ThreatModel) -> tuple[str, float | None, int | None, str, float]:
    """What an attacker may do to an image, however it searches: the radius comes last."""
    start = limits.start if limits.after is None else f"{limits.start} after {limits.after.name}"
    return limits.norm, limits.limit, limits.severity, start, limits.eps
