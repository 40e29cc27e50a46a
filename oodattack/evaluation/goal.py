"""What one search is after: losses to maximise, and when a row is finished."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack import aims
from oodattack.aims import real, rows_of
from oodattack.detector import Score
from oodattack.evaluation.batch import Batch, values
from oodattack.evaluation.outcome import ID
from oodattack.evaluation.plan import Guide, OnePass
from oodattack.loss import AnyLoss, Judged, Loss, unjudged
from oodattack.metrics import id_threshold
from oodattack.numbers import TPR
from oodattack.threat import ThreatModel

BEYOND = 0.01  # a row is finished this many standard deviations beyond the most extreme score that it can pass
BEST = 0.1  # share of the other side among which every second target of a row is looked for
AT_ONCE = 256  # rows at a time whose distances to all candidates are in memory together,
PAIRS = 1 << 22  # and fewer where there would be more distances than this


class Goal(NamedTuple):
    """What the search needs to know besides images and limits.

    Attributes:
        sign: OOD (hide, match, quantile, cross) or ID (raise).
        beaten: scores that the attacked rows want to pass, in the scale of the guide or, where it has one, of its
            judge: ID scores for OOD rows, OOD scores for ID rows.
        targets: shape (N, R, D), for objectives on a latent: what each row is to match, R choices of it.
        home: for the objective "class-logits", see `home_of`.
        confirm: see `maximise`: whether the detectors themselves let each pass; for guides that are not exact.
        beyond: images of the other side, for decision-only searches, which begin with one that is accepted.
    """

    sign: int
    beaten: Tensor | None = None
    targets: Tensor | None = None
    home: Tensor | None = None
    confirm: Loss | None = None
    beyond: Tensor | None = None


class Objective(NamedTuple):
    """What `maximise` is given for one block of rows.

    Attributes:
        losses: one after the other, each with a share of the queries.
        enough: value at which a row is finished, shape (B,), or None.
        judge: see `maximise`; for searches that do not listen to losses that are `Judged`.
        crossing: see `maximise`.
        own: where each row may follow others of the losses than its neighbour does, the likeliest first: of a place in
            `losses` for each row, shape (B,), the loss that follows them.
        home: place of the loss that follows the class of `Goal.home`, for each row, shape (B,).
        judged: whether the losses are.
    """

    losses: Sequence[AnyLoss]
    enough: Tensor | None
    judge: Loss | None = None
    crossing: bool = False
    own: Callable[[Tensor], AnyLoss] | None = None
    home: Tensor | None = None
    judged: bool = False


def objective(guide: Guide, threat: ThreatModel, goal: Goal, x: Tensor, rows: slice) -> Objective:
    """The losses of one block.

    A row that is to hide is finished once its score is below every score it can pass: AUROC cannot fall further
    through it. Where the guide does not order inputs as the detector does, `goal.confirm` has the last word.

    Args:
        guide: what is differentiated.
        threat: says what for.
        goal: the rest.
        x: the clean images of the block.
        rows: where they are in `goal.targets`.
    """
    if threat.aim == "match":
        z = _targets(goal)
        spread = z.std(correction=0) if threat.match == "score" and len(z) > 1 else None
        z_in = z[rows, 0]
        unit = _unit(guide, x, z_in)
        enough = aims.close_enough(z_in, unit=unit, spread=spread)
        return Objective([aims.match(guide.f, z_in, unit=unit)], enough)
    if threat.objective == "misclassify":
        return Objective([aims.misclassify(guide.f, guide.f(x).argmax(dim=1).detach())], None)
    assert goal.beaten is not None
    spread = goal.beaten.std(correction=0)  # 0, not NaN, of a single score
    if threat.aim == "quantile":
        assert threat.quantile is not None
        level = goal.beaten.quantile(threat.quantile)
        return Objective([aims.quantile(guide.f, level)], (-aims.CLOSE * spread).expand(len(x)))
    if threat.aim == "cross":
        level = goal.beaten.new_tensor(id_threshold(goal.beaten.cpu(), tpr=TPR))
        return Objective([aims.cross(guide.f, level)], None, crossing=True)
    furthest = (goal.sign * goal.beaten).max()
    enough = torch.maximum(furthest + BEYOND * spread, furthest.nextafter(furthest.new_tensor(float("inf"))))
    judge = None if guide.judge is None else _extreme(guide.judge, goal)
    if guide.one_pass is None:
        followed = _followed(guide, threat, goal, x, rows)
    else:
        followed = _in_one_pass(guide.one_pass, guide, threat, goal, x, rows)
    return followed._replace(enough=enough.expand(len(x)), judge=judge)


def _in_one_pass(one_pass: OnePass, guide: Guide, threat: ThreatModel, goal: Goal, x: Tensor, rows: slice) -> Objective:
    """The same losses, which tell what points are worth as well."""
    with torch.no_grad():
        logits = one_pass.logits(x)
    of_logits = _followed(guide._replace(f=one_pass.followed), threat, goal, logits, rows)
    worth, own = _extreme(one_pass.score, goal), of_logits.own

    def judged(loss: AnyLoss) -> AnyLoss:
        def both(x: Tensor, rows: Tensor) -> Judged:
            z = one_pass.logits(x)
            return Judged(unjudged(loss)(z, rows), worth(z.detach(), rows))

        return both

    losses = [judged(loss) for loss in of_logits.losses]
    own_judged = None if own is None else lambda which: judged(own(which))
    return of_logits._replace(losses=losses, own=own_judged, judged=True)


def _followed(guide: Guide, threat: ThreatModel, goal: Goal, x: Tensor, rows: slice) -> Objective:
    """The losses of the aims hide and raise, by `threat.objective`."""
    if threat.objective == "latent":
        z = _targets(goal)[rows]
        unit = _unit(guide, x, z.flatten(1))
        return Objective([aims.match(guide.f, z[:, r], unit=unit) for r in range(z.shape[1])], None)
    if threat.objective == "class-logits" and goal.sign == ID:
        return Objective([aims.less_of_every_class(guide.f)], None)
    if threat.objective == "class-logits":
        return _class_by_class(guide, x, goal.home)
    return Objective([_extreme(guide.f, goal)], None)


def _extreme(score: Score, goal: Goal) -> Loss:
    """The score should rise as far as it can on ID rows, and fall on OOD rows."""
    return aims.lift(score) if goal.sign == ID else aims.hide(score)


def _class_by_class(guide: Guide, x: Tensor, home: Tensor | None) -> Objective:
    """A loss for each class, in each row's own order: the likeliest first."""
    with torch.no_grad():
        likeliest = guide.f(x).nan_to_num(-torch.inf, torch.inf, -torch.inf).argsort(dim=1, descending=True)

    def own(which: Tensor) -> Loss:
        return aims.more_of_a_class(guide.f, likeliest.gather(1, which[:, None]).squeeze(1))

    losses = [aims.more_of_a_class(guide.f, label) for label in likeliest.unbind(dim=1)]
    at_home = None if home is None else (likeliest == home).long().argmax(dim=1)
    return Objective(losses, None, own=own, home=at_home)


def _targets(goal: Goal) -> Tensor:
    assert goal.targets is not None
    return goal.targets


def _unit(guide: Guide, x: Tensor, z_in: Tensor) -> Tensor:
    """The largest number in f(x) and the targets of each row, shape (B,); 1 where all are zero or not finite."""
    with torch.no_grad():
        z = torch.cat([rows_of(real(guide.f(x))), z_in], dim=1)
    unit = z.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=1)
    return unit.where(unit > 0, 1)


def best_of(worth: Tensor, *, at_least: int = 1) -> Tensor:
    """Numbers of the tenth of images that is worth most, the first first; of `at_least` so many."""
    return worth.argsort(descending=True, stable=True)[: max(at_least, round(BEST * len(worth)))]


def home_of(logits: Tensor, *, worth: Tensor) -> Tensor | None:
    """The class of more than half of the images that are worth most, a scalar; None where there is none.

    A score that treats each predicted class by itself may reach values in one class that it has in no other, and no
    gradient leads there.

    Args:
        logits: of images of the other side, or their scores of classes, shape (M, K).
        worth: of each of them, shape (M,).
    """
    classes = logits[best_of(worth)].argmax(dim=1)
    home = classes.mode().values
    return home if 2 * (classes == home).sum() > len(classes) else None


def nearest(
    f: Callable[[Tensor], Tensor], x: Tensor, others: Tensor, *, worth: Tensor, count: int, batch: Batch
) -> Tensor:
    """Latents of `count` images of `others` for each row, (N, count, D).

    In turns the nearest in latent space, and the nearest of those that are worth most: an AUROC falls to 0 only where
    rows pass these too.

    Args:
        f: latents.
        x: N rows.
        others: M images.
        worth: of each of them, shape (M,).
        count: at most M are taken.
        batch: rows at a time.
    """
    z, candidates = (rows_of(values(f, images, batch)) for images in (x, others))
    count = min(count, len(others))
    best = best_of(worth, at_least=count)
    parts = []
    for rows in z.split(max(1, min(AT_ONCE, PAIRS // len(candidates)))):
        distances, chosen = torch.cdist(rows, candidates), []
        for i in range(count):
            among_best = best[distances[:, best].argmin(dim=1)]
            chosen.append(among_best if i % 2 else distances.argmin(dim=1))
            distances.scatter_(1, chosen[-1][:, None], float("inf"))
        parts.append(torch.stack(chosen, dim=1))
    return candidates[torch.cat(parts)]
