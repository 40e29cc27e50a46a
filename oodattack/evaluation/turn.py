"""A turn of a member of a suite that shares its queries: which rows take it, and how long it is."""

from torch import Tensor

from oodattack.evaluation.front import Front
from oodattack.threat import ThreatModel

# Rows of a trial, in which a member shows what it brings before it gets the other rows.
TRIAL = 0.25  # share of the open rows,
FEW = 2  # but no fewer than these where there are as many,
MANY = 32  # and of very many rows about so many, for more would tell no more

# How long a turn is, where that is more than a few times the member's own queries.
PARTS = 4  # in quarters of these, so that many rows have one length and are searched together


def turn_lengths(member: ThreatModel, left: Tensor, *, times: int, share: float) -> Tensor:
    """Queries of each row in a turn, of what it has left; see `Spending.take`."""
    least, part = times * member.queries, max(1, member.queries // PARTS)
    wanted = least + ((share * left).long() - least).clamp(min=0) // part * part
    return wanted.where(wanted <= left, left // member.queries * member.queries)


def longer(member: ThreatModel, queries: int) -> ThreatModel:
    """A member with so many queries and, if it follows targets and has twice its own, twice as many of them."""
    wider = 1 + (member.objective == "latent" and queries >= 2 * member.queries)
    return member.model_copy(update={"queries": queries, "restarts": member.restarts * wider})


def turn_rows(front: Front, member: ThreatModel, *, trial: bool) -> Tensor:
    """The rows that take a turn."""
    if member.aim == "cross":
        return front.refused(member)
    rows = front.open_rows(member, trial=trial)
    apart = max(1, min(round(1 / TRIAL), len(rows) // FEW), len(rows) // MANY) if trial else 1
    return rows[front.turns % apart :: apart]  # others in each trial, as far as there are: none should pay for all
