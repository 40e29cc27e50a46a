"""A threat model at another radius than its own: what NAME@EPS means."""

from typing import Any

from oodattack.threat.group import Suite, Sweep, Threat, members_of
from oodattack.threat.model import ThreatModel


def at_radii(threat: Threat, radii: str) -> Threat:
    """The same threat, called NAME@EPS, with that eps; or called NAME-swept with each of EPS,EPS,...

    Whatever else it says stays: step sizes are shares of the radius, a budget does not grow with it.

    Raises:
        ValueError: a radius that its norm does not take; or a threat whose reach another number rules.
    """
    several = radii.split(",")
    asked = f"{threat.name}@{radii}"
    if isinstance(threat, Sweep):
        raise ValueError(f"threat {asked!r} must have one radius before, got a sweep over some. Change its file.")
    for m in members_of(threat):
        if m.after is not None or m.limit is not None or m.severity is not None:
            field = "after" if m.after is not None else "limit" if m.limit is not None else "severity"
            raise ValueError(f"threat {asked!r} must be ruled by `eps` alone, got `{field}` in {m.name}. Write a file.")
    if len(several) > 1 and isinstance(threat, Suite):
        each = " ".join(f"--threat {threat.name}@{eps}" for eps in several)
        raise ValueError(f"threat {asked!r} must have one radius, got {len(several)} for a suite. Write {each}.")
    try:
        if len(several) > 1:
            name = f"{threat.name}-swept"
            swept = tuple(_changed(m, name=f"{name}@{eps}", eps=eps) for eps in several for m in members_of(threat))
            return Sweep(name=name, members=swept, source=swept[0].source)
        if isinstance(threat, ThreatModel):
            return _changed(threat, name=asked, eps=radii)
        members = tuple(_changed(m, name=_member(m.name, threat.name, radii), eps=radii) for m in threat.members)
        return Suite(name=asked, members=members, queries=threat.queries, source=threat.source)
    except ValueError as error:
        raise ValueError(f"threat {asked!r}: {error}") from None


def _changed(model: ThreatModel, **fields: Any) -> ThreatModel:
    return ThreatModel(**vars(model) | fields)


def _member(name: str, suite: str, eps: str) -> str:
    """SUITE/MEMBER to SUITE@EPS/MEMBER; a member that is a threat model of its own becomes NAME@EPS."""
    own = name.removeprefix(f"{suite}/")
    return f"{name}@{eps}" if own == name else f"{suite}@{eps}/{own}"
