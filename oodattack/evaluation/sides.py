"""One search on one attacked side, OOD or ID, and what each detector of its group says of the result."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.aims import rows_of
from oodattack.attack import Loss
from oodattack.evaluation.goal import Goal, nearest
from oodattack.evaluation.outcome import Scored, Side
from oodattack.evaluation.plan import Quarry
from oodattack.evaluation.returned import scored
from oodattack.evaluation.search import Rows, search
from oodattack.evaluation.setup import Setup
from oodattack.threat import ON_A_SCORE, ThreatModel

FIRST = 64  # ID images that decision-only searches may begin with


def attack_ood(setup: Setup, quarry: Quarry, threat: ThreatModel, names: list[str], rows: Rows) -> dict[str, Scored]:
    """Search once on OOD rows, then let each detector of the group score what came out."""
    start = time.perf_counter()
    return _attack(setup, quarry, threat, names, rows, _ood_goal(setup, quarry, threat, names, rows), start)


def attack_twice(setup: Setup, quarry: Quarry, threat: ThreatModel, name: str, rows: Rows) -> Side:
    """A threat model after another one, for one detector: the second starts from what the first returned.

    Distances and the clean point are those of the second; queries and seconds are those of both.
    """
    assert threat.after is not None
    followed, first = setup.plan(name, threat.after)
    before = rows._replace(target=setup.target_rows(first, rows.name, len(rows.x)))
    found = attack_ood(setup, followed, first, [name], before)[name]
    then = rows._replace(x=found.x_adv, clean={name: found.side.scores})
    again = attack_ood(setup, quarry, threat, [name], then)[name]
    spent = ("queries", "gradients", "zero_gradients", "non_finite", "seconds")
    both = {field: getattr(found.side, field) + getattr(again.side, field) for field in spent}
    stuck = found.side.clean_best & again.side.clean_best
    return again.side._replace(clean_best=stuck, **both)


def attack_id(
    setup: Setup, quarry: Quarry, threat: ThreatModel, names: list[str], rows: Rows, others: Sequence[Tensor]
) -> dict[str, Scored]:
    """Search once on ID rows; the goal is to pass every one of the OOD images in `others`."""
    start = time.perf_counter()
    judged = quarry.judge or quarry.f
    targets = None
    if threat.objective == "latent":
        targets = _choices(setup, quarry, threat, rows, others[0] if len(others) == 1 else torch.cat(list(others)))
    beaten = torch.cat([setup.values(judged, other) for other in others])
    tops = {}
    if needs_confirming(setup, quarry, threat):
        tops = {n: torch.cat([setup.score(n, other, "OOD") for other in others]).max() for n in names}
    goal = Goal("id", beaten=beaten, targets=targets, confirm=_confirm(setup, quarry, threat, tops, sign=1))
    return _attack(setup, quarry, threat, names, rows, goal, start)


def _attack(
    setup: Setup, quarry: Quarry, threat: ThreatModel, names: list[str], rows: Rows, goal: Goal, start: float
) -> dict[str, Scored]:
    """The search that was begun at the time `start`, and what each detector says of its result."""
    found = search(setup, quarry, threat, rows, goal, who=", ".join(names))
    seconds = time.perf_counter() - start
    sign = 1 if goal.side == "id" else -1
    sides = {n: scored(setup, n, threat, rows, found, sign=sign, alone=len(names) == 1) for n in names}
    return {n: some._replace(side=some.side._replace(seconds=seconds)) for n, some in sides.items()}


def _ood_goal(setup: Setup, quarry: Quarry, threat: ThreatModel, names: list[str], rows: Rows) -> Goal:
    if rows.target is not None:
        return Goal("ood", targets=rows_of(setup.values(quarry.f, rows.target))[:, None])
    if threat.objective == "misclassify":
        return Goal("ood")
    passed = setup.targets if threat.aim == "quantile" and setup.targets is not None else setup.id
    beaten = setup.values(quarry.judge or quarry.f, passed)
    targets = None
    if threat.objective == "latent":
        targets = _choices(setup, quarry, threat, rows, setup.id if setup.targets is None else setup.targets)
    lowest = {n: setup.subjects[n].id_scores.min() for n in names}
    confirm = _confirm(setup, quarry, threat, lowest, sign=-1)
    beyond = setup.id[:FIRST].clone() if threat.aim == "cross" else None
    return Goal("ood", beaten=beaten, targets=targets, confirm=confirm, beyond=beyond)


def _choices(setup: Setup, quarry: Quarry, threat: ThreatModel, rows: Rows, others: Tensor) -> Tensor:
    """As many images of the other side as there are restarts, the nearest in latent space first."""
    return nearest(quarry.f, rows.x, others, count=threat.restarts, batch=setup.batch)


def _confirm(setup: Setup, quarry: Quarry, threat: ThreatModel, bounds: dict[str, Tensor], *, sign: int) -> Loss | None:
    """Whether images pass every bound on the detectors' own scores; None where the search's order is theirs."""
    if not needs_confirming(setup, quarry, threat):
        return None

    def passes(images: Tensor, _rows: Tensor) -> Tensor:
        scores = {n: setup.score(n, images, "images", finite=False) for n in bounds}
        passed = [sign * scores[n] > sign * bound for n, bound in bounds.items()]  # NaN passes nothing
        return torch.stack(passed).all(dim=0).to(images.device)

    return passes


def needs_confirming(setup: Setup, quarry: Quarry, threat: ThreatModel) -> bool:
    """Whether the search orders inputs otherwise than the detectors, and says itself when a row is finished."""
    ordered = quarry.judge is not None or (quarry.exact and setup.precision == "full")
    return not ordered and threat.aim in ON_A_SCORE
