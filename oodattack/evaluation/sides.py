"""One search on one attacked side, OOD or ID, and what each detector of its group says of the result."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.aims import rows_of
from oodattack.attack import Found
from oodattack.evaluation.goal import Goal, nearest
from oodattack.evaluation.outcome import Scored, Side
from oodattack.evaluation.plan import Quarry
from oodattack.evaluation.score import scored
from oodattack.evaluation.search import search
from oodattack.evaluation.setup import Setup
from oodattack.threat import ThreatModel

BEYOND = 64  # ID images that decision-only searches may begin with


class Hunted(NamedTuple):
    """Rows of one set that are attacked.

    Attributes:
        name: of the set, part of the key of their random numbers.
        x: images before the search, shape (N, C, H, W).
        clean: detector -> its scores of `x`, shape (N,).
        numbers: N numbers that identify the rows in the set.
        target: ID image that each row is to match, or None.
        round: of a suite that shares its queries; another round is another random start.
    """

    name: str
    x: Tensor
    clean: dict[str, Tensor]
    numbers: Sequence[int]
    target: Tensor | None = None
    round: int = 0


def attack_ood(
    setup: Setup, prey: Quarry, limits: ThreatModel, names: list[str], rows: Hunted
) -> dict[str, tuple[Scored, float]]:
    """Search once on OOD rows, then let each detector of the group score what came out. Values: (sides, seconds)."""
    start = time.perf_counter()
    goal = _ood_goal(setup, prey, limits, names, rows)
    found = _search(setup, prey, limits, names, rows, goal)
    seconds = time.perf_counter() - start
    return {n: (_scored(setup, n, limits, rows, found, sign=-1, alone=len(names) == 1), seconds) for n in names}


def attack_twice(setup: Setup, prey: Quarry, limits: ThreatModel, name: str, rows: Hunted) -> tuple[Side, float]:
    """A threat model after another one, for one detector: the second starts from what the first returned.

    Distances and the clean point are those of the second; queries are those of both.
    """
    assert limits.after is not None
    stand_in, first = setup.plan(name, limits.after)
    found, seconds = attack_ood(setup, stand_in, first, [name], rows)[name]
    then = rows._replace(x=found.x_adv, clean={name: found.side.scores})
    again, more = attack_ood(setup, prey, limits, [name], then)[name]
    counts = ("queries", "gradients", "zero_gradients", "non_finite")
    both = {field: getattr(found.side, field) + getattr(again.side, field) for field in counts}
    stuck = found.side.clean_best & again.side.clean_best
    return again.side._replace(clean_best=stuck, **both), seconds + more


def attack_id(
    setup: Setup, prey: Quarry, limits: ThreatModel, names: list[str], rows: Hunted, others: Sequence[Tensor]
) -> dict[str, tuple[Scored, float]]:
    """Search once on ID rows; the goal is to pass every one of the OOD images in `others`."""
    start = time.perf_counter()
    judged = prey.judge or prey.f
    targets = None
    if limits.objective == "latent":
        targets = _choices(setup, prey, limits, rows, others[0] if len(others) == 1 else torch.cat(list(others)))
    beaten = torch.cat([setup.values(judged, other) for other in others])
    tops = {}
    if needs_confirming(setup, prey, limits):
        tops = {n: torch.cat([setup.score(n, other, "OOD") for other in others]).max() for n in names}
    goal = Goal("id", beaten=beaten, targets=targets, confirm=_confirm(setup, prey, limits, tops, sign=1))
    found = _search(setup, prey, limits, names, rows, goal)
    seconds = time.perf_counter() - start
    return {n: (_scored(setup, n, limits, rows, found, sign=1, alone=len(names) == 1), seconds) for n in names}


def _ood_goal(setup: Setup, prey: Quarry, limits: ThreatModel, names: list[str], rows: Hunted) -> Goal:
    if rows.target is not None:
        return Goal("ood", targets=rows_of(setup.values(prey.f, rows.target))[:, None])
    if limits.objective == "misclassify":
        return Goal("ood")
    passed = setup.targets if limits.aim == "quantile" and setup.targets is not None else setup.id
    beaten = setup.values(prey.judge or prey.f, passed)
    targets = None
    if limits.objective == "latent":
        targets = _choices(setup, prey, limits, rows, setup.id if setup.targets is None else setup.targets)
    lowest = {n: setup.id_scores[n].min() for n in names}
    confirm = _confirm(setup, prey, limits, lowest, sign=-1)
    beyond = setup.id[:BEYOND].clone() if limits.aim == "cross" else None
    return Goal("ood", beaten=beaten, targets=targets, confirm=confirm, beyond=beyond)


def _choices(setup: Setup, prey: Quarry, limits: ThreatModel, rows: Hunted, others: Tensor) -> Tensor:
    """As many images of the other side as there are restarts, the nearest in latent space first."""
    return nearest(prey.f, rows.x, others, count=limits.restarts, batch=setup.batch)


def _confirm(
    setup: Setup, prey: Quarry, limits: ThreatModel, bounds: dict[str, Tensor], *, sign: int
) -> Callable[[Tensor], Tensor] | None:
    """Whether images pass every bound on the detectors' own scores; None where the search's order is theirs."""
    if not needs_confirming(setup, prey, limits):
        return None

    def passes(images: Tensor) -> Tensor:
        passed = [sign * setup.score(n, images, "images") > sign * bound for n, bound in bounds.items()]
        return torch.stack(passed).all(dim=0).to(images.device)

    return passes


def needs_confirming(setup: Setup, prey: Quarry, limits: ThreatModel) -> bool:
    """Whether the search orders inputs otherwise than the detectors, and says itself when a row is finished."""
    ordered = prey.judge is not None or (prey.exact and setup.precision == "full")
    return not ordered and limits.aim in ("hide", "raise", "both")


def _search(setup: Setup, prey: Quarry, limits: ThreatModel, names: list[str], rows: Hunted, goal: Goal) -> Found:
    again = f"/{rows.round}" if rows.round else ""
    return search(
        prey,
        limits,
        rows.x,
        goal,
        numbers=rows.numbers,
        seed=setup.seed,
        key=f"{rows.name}/{limits.name}{again}",
        who=", ".join(names),
        batch=setup.batch,
        precision=setup.precision,
        progress=setup.advance,
        keeper=setup.keeper,
    )


def _scored(
    setup: Setup, name: str, limits: ThreatModel, rows: Hunted, found: Found, *, sign: int, alone: bool
) -> Scored:
    return scored(
        setup.detectors[name],
        name,
        limits,
        rows.x,
        found,
        clean=rows.clean[name],
        target=rows.target,
        sign=sign,
        batch=setup.batch,
        accepted=setup.id_scores[name] if limits.aim == "cross" else None,
        repeatable=setup.steady[name]["repeatable"],
        alone=alone,
        keeper=setup.keeper,
    )
