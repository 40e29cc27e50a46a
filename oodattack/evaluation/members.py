"""The members of a suite that shares its queries: which of them suit a detector, and what the report calls them."""

from posixpath import commonpath

from oodattack.evaluation.plan import Guide, Unfit
from oodattack.evaluation.setup import Setup
from oodattack.threat import Suite, ThreatModel


def fitting(setup: Setup, suite: Suite, name: str) -> dict[ThreatModel, Guide]:
    """The members that suit a detector, and what each of them follows.

    Members that average draws are for scores that change from call to call. Where a score has no gradient, those that
    need one give way to the black box that is a member itself or, if none is, to the one that serves in their place.

    Raises:
        Unfit: no member suits the detector.
    """
    plan: dict[ThreatModel, Guide] = {}
    blind: dict[ThreatModel, Guide] = {}
    reason = "its members average draws, and the score is the same at every call"
    for member in suite.members:
        if member.draws is not None and setup.subjects[name].repeatable:
            continue
        try:
            guide, chosen = setup.plan(name, member)
        except Unfit as unfit:
            reason = str(unfit)
            continue
        if chosen == member or chosen.aim == "cross":
            plan[chosen] = guide
        elif not blind:  # the next one would be the same search
            blind[chosen.model_copy(update={"name": f"{suite.name}/{chosen.attack}"})] = guide
    if not (plan or blind):
        raise Unfit(reason)
    return plan or blind


def short_name(member: ThreatModel, suite: Suite) -> str:
    """What the report calls a member: its name without that of the suite, also of a suite that was renamed since."""
    names = [m.name for m in suite.members]
    former = commonpath(names) if len(names) > 1 else ""
    for name in filter(None, (suite.name, former)):
        if member.name.startswith(f"{name}/"):
            return member.name.removeprefix(f"{name}/")
    return member.name
