"""How to search: a start and a step each."""

from collections.abc import Callable
from typing import NamedTuple

from oodattack.attack import Attack
from oodattack.attacks.adamax import adamax
from oodattack.attacks.apgd import apgd
from oodattack.attacks.pgd import pgd
from oodattack.attacks.random_search import random_search
from oodattack.threat import ThreatModel


class Row(NamedTuple):
    """A row of the table of attacks."""

    name: str
    source: str
    description: str
    build: Callable[[ThreatModel], Attack]


def _step_size(threat: ThreatModel) -> float:
    assert threat.step_size is not None  # checked when the threat model was read
    return threat.step_size


ATTACKS = {
    row.name: row
    for row in (
        Row(
            "pgd", "arXiv:1706.06083, section 2.1", "projected steepest ascent", lambda t: pgd(step_size=_step_size(t))
        ),
        Row("apgd", "arXiv:2003.01690, Alg. 1", "momentum, step halved when a row stalls", lambda t: apgd()),
        Row("adamax", "arXiv:2009.08016, Alg. 1", "Adamax on delta", lambda t: adamax(step_size=_step_size(t))),
        Row("random-search", "floor", "independent uniform draws, no gradient", lambda t: random_search()),
    )
}

__all__ = ["ATTACKS", "Row", "adamax", "apgd", "pgd", "random_search"]
