"""One search: a quarry, a threat model, a set of images. Returns images that are known to obey the threat model."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack import aims
from oodattack.attack import Found, Loss, maximise
from oodattack.attacks import ATTACKS
from oodattack.detector import searching
from oodattack.evaluation.plan import Quarry
from oodattack.geometry import row_random
from oodattack.threat import ThreatModel

BEYOND = 0.01  # a hidden row is finished this many ID standard deviations beyond the most extreme score it can pass


class Goal(NamedTuple):
    """What the search needs to know besides images and limits, in the quarry's own scale.

    Attributes:
        side: "ood" (hide, match, quantile) or "id" (raise).
        beaten: scores that the attacked rows want to pass: ID scores for side "ood", OOD scores for side "id".
        z_in: latents of each row's target, for matching.
        confirm: images -> (B,), whether the detectors themselves let each pass; for quarries that are not exact.
    """

    side: str
    beaten: Tensor | None = None
    z_in: Tensor | None = None
    confirm: Callable[[Tensor], Tensor] | None = None


def search(
    prey: Quarry,
    threat: ThreatModel,
    x: Tensor,
    goal: Goal,
    *,
    seed: int,
    key: str,
    batch_size: int,
    progress: Callable[[int], None],
) -> Found:
    """Attack all rows of `x` in blocks of `batch_size`.

    Every random number comes from (seed, key, row), so the blocks do not matter beyond rounding.

    Raises:
        RuntimeError: a returned image leaves the threat model, which would be a bug.
    """
    attack = ATTACKS[threat.attack].build(threat)
    parts = []
    for first in range(0, len(x), batch_size):
        rows = range(first, min(first + batch_size, len(x)))
        block = x[rows.start : rows.stop]
        loss, enough = objective(prey, threat, goal, rows)
        found = maximise(
            fast(loss),
            block,
            threat,
            attack,
            row_random(seed, key, rows, x.device, x.dtype),
            keep_clean=threat.aim in ("hide", "raise", "both"),
            enough=enough if threat.iterate == "best" else None,
            confirm=None if goal.confirm is None else lambda images, _rows: goal.confirm(images),  # type: ignore[misc]
            progress=progress,
        )
        verify(found.x_adv, block, threat)
        parts.append(found)
    return Found(*[torch.cat(columns) for columns in zip(*parts, strict=True)])


def fast(loss: Loss) -> Loss:
    """The same loss on folded copies of the networks, see `detector.searching`."""
    search = object()

    def folded(x: Tensor, rows: Tensor) -> Tensor:
        with searching(search):
            return loss(x, rows)

    return folded


def objective(prey: Quarry, threat: ThreatModel, goal: Goal, rows: range) -> tuple[Loss, Tensor | None]:
    """The loss of one block, and the value at which a row of it is finished.

    A row that is to hide is finished once its score is below every score it can pass: AUROC cannot fall further
    through it. Where the quarry does not order inputs as the detector does, `goal.confirm` has the last word.
    """
    if threat.aim == "match":
        assert goal.z_in is not None
        z_in = goal.z_in[rows.start : rows.stop]
        return aims.match(prey.f, z_in), aims.close_enough(z_in)
    assert goal.beaten is not None
    spread = goal.beaten.std(correction=0)  # 0, not NaN, of a single score
    if threat.aim == "quantile":
        assert threat.quantile is not None
        level = goal.beaten.quantile(threat.quantile)
        return aims.quantile(prey.f, level), (-aims.CLOSE * spread).expand(len(rows))
    if goal.side == "id":
        loss, enough = aims.lift(prey.f), goal.beaten.max() + BEYOND * spread
    else:
        loss, enough = aims.hide(prey.f), -(goal.beaten.min() - BEYOND * spread)
    return loss, enough.expand(len(rows))


def verify(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> None:
    """Raise if any image leaves the ball or the box. Rounding may cost two units in the last place of a pixel."""
    ulp = 2 * torch.finfo(x.dtype).eps
    slack = {"linf": ulp, "l2": ulp * x[0].numel() ** 0.5, "l1": ulp * x[0].numel()}[threat.norm]
    worst = threat.distance(x_adv, x).max().item()
    if not worst <= threat.eps * (1 + 1e-6) + slack:
        raise RuntimeError(f"attack left the {threat.norm} ball: {worst:.6g} > eps {threat.eps:.6g}. This is a bug.")
    if not (x_adv.min() >= 0 and x_adv.max() <= 1):
        raise RuntimeError("attack left the [0, 1] box. This is a bug.")
