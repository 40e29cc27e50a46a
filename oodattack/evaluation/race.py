"""Which of several losses each row should follow: those that come furthest in a few steps, not the likeliest."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import COUNTS, maximise
from oodattack.attacks import ATTACKS
from oodattack.evaluation.plan import is_blind
from oodattack.geometry import RowRandom
from oodattack.loss import Loss
from oodattack.threat import ThreatModel

RACE_SHARE = 1 / 3  # of the queries, that the race may take
FEWEST_POINTS = 3  # of a loss in the race: a first one and two steps from there
MOST_POINTS = 5  # more tell no more


class Raced(NamedTuple):
    """What came of a race."""

    places: Tensor  # (restarts, B), of the losses that came furthest for each row, the first first
    counts: dict[str, Tensor]  # name of `COUNTS` -> (B,), of all of them


def points_of_each(threat: ThreatModel, losses: int) -> tuple[int, int]:
    """How many losses are in the race, and how many points each of them has; none where there is nothing to choose.

    Args:
        threat: `restarts` of the losses are followed afterwards, with at least two thirds of the queries. A search
            without a gradient has nothing to show in a few steps, and of a threat model with a limit of its own
            Auto-PGD knows nothing: there the likeliest are followed.
        losses: how many there are.
    """
    affordable = int(RACE_SHARE * threat.queries) // (threat.draws or 1)
    racing = min(losses, affordable // FEWEST_POINTS)
    if racing <= threat.restarts or is_blind(threat) or threat.limit is not None:
        return 0, 0
    return racing, min(affordable // racing, MOST_POINTS)


def race(
    losses: Sequence[Loss],
    points: int,
    x: Tensor,
    threat: ThreatModel,
    random: RowRandom,
    progress: Callable[[int], None],
) -> Raced:
    """The `threat.restarts` losses that come furthest for each row.

    Each has a short Auto-PGD of its own. What is likeliest before an attack says little of what it can be raised to,
    and the gradient there not enough: of the .0013 that 50 steps against noise had left of an energy's AUROC, 200 more
    queries leave .00033, 30 of them spent so, and .00056 with two classes chosen to first order.

    Args:
        losses: those in the race, on equal terms: their values are compared, not what the score says of the points,
            which depends on classes that were likely before.
        points: of each; `draws` queries a point.
        x: clean images, shape (B, C, H, W).
        threat: the limits.
        random: as of `maximise`.
        progress: as of `maximise`.
    """
    short = threat.model_copy(
        update={"attack": "apgd", "step_size": None, "queries": points * (threat.draws or 1), "restarts": 1}
    )
    attack = ATTACKS["apgd"].build(short)
    found = [maximise(f, x, short, attack, random, keep_clean=False, progress=progress) for f in losses]
    places = torch.stack([one.value for one in found]).argsort(dim=0, descending=True, stable=True)
    counts = {name: torch.stack([getattr(one, name) for one in found]).sum(dim=0) for name in COUNTS}
    return Raced(places[: threat.restarts], counts)
