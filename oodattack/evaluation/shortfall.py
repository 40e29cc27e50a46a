"""What a search lacks by design: what it leaves of a score is no evidence that more could not be taken."""

from oodattack.attacks.torchattacks_table import find_foreign
from oodattack.evaluation.plan import is_blind
from oodattack.threat import OUTSIDE, Threat, ThreatModel, members_of

ROUNDING = 1e-9
BLINDED = "found no gradient in the score (give the detector a `surrogate` that has one)"
YOURS = "is code of your own (put it into a suite with a known one: what that leaves tells what yours is worth)"
FEW = 8  # steps: fewer do not show whether more would go on


def shortfall(threat: Threat, *, white_box: bool) -> str | None:
    """What a search lacks, in words after "the search"; None where it, or a member, lacks nothing.

    Args:
        threat: what it was to do.
        white_box: whether it had a gradient to do it with; what is a black box by its own choice lacks nothing here.
    """
    if not white_box and not all(is_blind(member) for member in members_of(threat)):
        return BLINDED
    lacking = [_lacks(m) for m in members_of(threat)]
    return None if None in lacking else lacking[0]


def _lacks(threat: ThreatModel) -> str | None:
    if threat.by_user_code:
        return YOURS
    theirs = find_foreign(threat.attack.removeprefix(OUTSIDE)) if threat.attack.startswith(OUTSIDE) else None
    if theirs and theirs.lacks:
        return theirs.lacks
    if is_blind(threat):
        return None
    steps = (threat.queries // (threat.draws or 1) - 1) // threat.restarts - 1  # after the clean call and first points
    if theirs:
        steps = (steps - theirs.once) // theirs.per_step
    size = threat.step_size if threat.attack == "pgd" and threat.norm != "patch" else None  # a share of eps
    if size is not None and steps * size < 1 - ROUNDING:
        return f"does not get to the edge of the ball in {steps} steps of {size:.3g} eps"
    return None if steps >= FEW else "takes a single step" if steps == 1 else f"takes {steps} steps only"
