"""One search on one attacked side, OOD or ID, and what each detector of its group says of the result."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.aims import rows_of
from oodattack.attack import COUNTS
from oodattack.evaluation.goal import Goal, home_of, nearest
from oodattack.evaluation.outcome import ID, OOD, Scored, Side
from oodattack.evaluation.plan import Group
from oodattack.evaluation.returned import scored
from oodattack.evaluation.search import Rows, search
from oodattack.evaluation.setup import Setup
from oodattack.loss import Loss
from oodattack.threat import ON_A_SCORE

FIRST = 64  # ID images that decision-only searches may begin with


def attack_ood(setup: Setup, group: Group, rows: Rows) -> dict[str, Scored]:
    """Search once on OOD rows, then let each detector of the group score what came out."""
    start = time.perf_counter()
    return _attack(setup, group, rows, _ood_goal(setup, group, rows), start)


def attack_twice(setup: Setup, group: Group, rows: Rows) -> Side:
    """A threat model after another one, for the one detector of a group: the second starts where the first ended.

    Distances and the clean point are those of the second; queries and seconds are those of both.
    """
    (name,) = group.names
    assert group.threat.after is not None
    guide, threat = setup.plan(name, group.threat.after)
    before = rows._replace(target=setup.target_rows(threat, rows.name, len(rows.x)))
    first = attack_ood(setup, Group(guide, threat, [name]), before)[name]
    then = rows._replace(x=first.x_adv, clean={name: first.side.scores})
    second = attack_ood(setup, group, then)[name]
    both = {field: getattr(first.side, field) + getattr(second.side, field) for field in (*COUNTS, "seconds")}
    stuck = first.side.clean_best & second.side.clean_best
    return second.side._replace(clean_best=stuck, **both)


def attack_id(setup: Setup, group: Group, rows: Rows, others: Sequence[Tensor]) -> dict[str, Scored]:
    """Search once on ID rows; the goal is to pass every one of the OOD images in `others`."""
    start = time.perf_counter()
    targets = None
    if group.threat.objective == "latent":
        targets = _choices(setup, group, rows, others[0] if len(others) == 1 else torch.cat(list(others)), ID)
    judge = group.guide.judge or group.guide.f
    beaten = torch.cat([setup.values(judge, other) for other in others])
    highest = {}
    if needs_confirming(setup, group):
        highest = {n: torch.cat([setup.score(n, other, "OOD") for other in others]).max() for n in group.names}
    goal = Goal(ID, beaten=beaten, targets=targets, confirm=_confirm(setup, group, highest, ID))
    return _attack(setup, group, rows, goal, start)


def _attack(setup: Setup, group: Group, rows: Rows, goal: Goal, start: float) -> dict[str, Scored]:
    """The search that was begun at the time `start`, and what each detector says of its result."""
    found = search(setup, group, rows, goal)
    seconds = time.perf_counter() - start
    alone = len(group.names) == 1
    sides = {n: scored(setup, n, group.threat, rows, found, sign=goal.sign, alone=alone) for n in group.names}
    return {n: some._replace(side=some.side._replace(seconds=seconds)) for n, some in sides.items()}


def _ood_goal(setup: Setup, group: Group, rows: Rows) -> Goal:
    guide, threat = group.guide, group.threat
    if rows.target is not None:
        return Goal(OOD, targets=rows_of(setup.values(guide.f, rows.target))[:, None])
    if threat.objective == "misclassify":
        return Goal(OOD)
    passed = setup.targets if threat.aim == "quantile" and setup.targets is not None else setup.id
    beaten = setup.values(guide.judge or guide.f, passed)
    targets = None
    if threat.objective == "latent":
        targets = _choices(setup, group, rows, setup.id if setup.targets is None else setup.targets, OOD)
    home = None
    if threat.objective == "class-logits" and rows.round:  # others have had these rows, and left them
        home = home_of(setup.values(guide.f, passed), worth=-beaten)
    lowest = {n: setup.subjects[n].id_scores.min() for n in group.names}
    confirm = _confirm(setup, group, lowest, OOD)
    beyond = setup.id[:FIRST].clone() if threat.aim == "cross" else None
    return Goal(OOD, beaten=beaten, targets=targets, home=home, confirm=confirm, beyond=beyond)


def _choices(setup: Setup, group: Group, rows: Rows, others: Tensor, sign: int) -> Tensor:
    """Latents of as many images of the other side as there are restarts; worth most are those that are hard to pass."""
    assert group.guide.judge is not None
    worth, batch = sign * setup.values(group.guide.judge, others), setup.batch
    return nearest(group.guide.f, rows.x, others, worth=worth, count=group.threat.restarts, batch=batch)


def _confirm(setup: Setup, group: Group, bounds: dict[str, Tensor], sign: int) -> Loss | None:
    """Whether images pass every bound on the detectors' own scores; None where the search's order is theirs."""
    if not needs_confirming(setup, group):
        return None

    def passes(images: Tensor, _rows: Tensor) -> Tensor:
        scores = {n: setup.score(n, images, "images", finite=False) for n in bounds}
        passed = [sign * scores[n] > sign * bound for n, bound in bounds.items()]  # NaN passes nothing
        return torch.stack(passed).all(dim=0).to(images.device)

    return passes


def needs_confirming(setup: Setup, group: Group) -> bool:
    """Whether the search orders inputs otherwise than the detectors, and says itself when a row is finished."""
    ordered = group.guide.judge is not None or (group.guide.exact and setup.precision == "full")
    return not ordered and group.threat.aim in ON_A_SCORE
