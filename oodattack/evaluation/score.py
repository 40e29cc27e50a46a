"""Scoring: what the untouched detector says, of any images and of those that a search returned."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.aims import mape, rows_of
from oodattack.attack import Found
from oodattack.data.disk import copied, gathered, pieces, put
from oodattack.detector import Detector
from oodattack.evaluation.batch import Batch, by_rows, values
from oodattack.evaluation.keeper import Keeper
from oodattack.evaluation.outcome import Scored, Side, show_rows
from oodattack.evaluation.plan import measured
from oodattack.lookup import summary
from oodattack.metrics import id_threshold
from oodattack.numbers import TPR
from oodattack.threat import ON_A_SCORE, ThreatModel

OUTWARD = (1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0)  # times the distance of a point that just misses


def score(
    detector: Detector,
    name: str,
    x: Tensor,
    *,
    batch: Batch,
    what: str,
    rounded: bool = False,
    finite: bool = True,
) -> Tensor:
    """The untouched detector's scores of all rows, or of all rows rounded to 8 bits, on the CPU.

    Raises:
        ValueError: the detector fails, changes its input, or returns anything but one score a row, which must be
            `finite` unless the caller sorts out those that are not.
    """
    first = x[: batch.size].clone()

    def work(rows: slice) -> Tensor:
        block = (x[rows] * 255).round() / 255 if rounded else x[rows]
        part = detector(block)
        if not isinstance(part, Tensor) or part.shape != block.shape[:1]:
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"detector {name!r} must return one score a row, shape ({len(block)},), got {got}. "
                "Return a flat tensor."
            )
        return part.detach()

    try:
        with torch.no_grad():
            scores = by_rows(len(x), batch, work).cpu()
    except Exception as error:  # whatever a user's detector does
        if isinstance(error, ValueError) and "must return one score a row" in str(error):
            raise
        shape = tuple(x.shape[1:])
        raise ValueError(
            f"detector {name!r} must score images {shape}, got {summary(error)}. Correct detector or images."
        ) from error
    if not torch.equal(first, x[: len(first)]):
        raise ValueError(f"detector {name!r} must leave its images alone, got changes in place. Work on a copy.")
    scores = scores if scores.is_floating_point() else scores.float()
    if finite and not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise ValueError(
            f"detector {name!r} must return finite scores, got {bad} NaN or infinite on {what!r}. Correct the detector."
        )
    return scores


def scored(
    detector: Detector,
    name: str,
    limits: ThreatModel,
    x: Tensor,
    found: Found,
    *,
    clean: Tensor,
    target: Tensor | None,
    sign: int,
    batch: Batch,
    accepted: Tensor | None,
    repeatable: bool,
    alone: bool,
    keeper: Keeper,
) -> Scored:
    """One detector's own view of the returned images; a clean image that is worse for it counts as returned.

    Args:
        detector: the untouched detector.
        name: what errors call it.
        limits: the threat model that the images obey.
        x: images before the search, shape (N, C, H, W).
        found: what the search returned for them.
        clean: the detector's scores of `x`, shape (N,).
        target: ID image that each row was to match, or None.
        sign: 1 where a higher score is worse (ID rows), -1 where a lower one is (OOD rows).
        batch: images per forward pass.
        accepted: clean ID scores that set the threshold to cross, or None.
        repeatable: whether two calls give the same scores.
        alone: nobody else looks at `found`, so its images may be changed in place.
        keeper: of images.
    """
    x_adv = found.x_adv if alone else copied(found.x_adv, keeper.room)

    def judged(images: Tensor, *, rounded: bool = False) -> Tensor:
        return score(detector, name, images, batch=batch, what=what, rounded=rounded, finite=False)

    what = f"{limits.name} images"
    scores = judged(x_adv)
    bad = ~scores.isfinite()
    crossing = None
    if accepted is not None:
        threshold = id_threshold(accepted, tpr=TPR)
        scores = pushed_out(judged, scores, x_adv, x, limits, threshold)
        crossing = distances(limits, x_adv, x).masked_fill(scores.double() > threshold, float("inf"))
        crossing = crossing.masked_fill(clean.double() <= threshold, 0.0)
    undo = bad
    if limits.aim in (*ON_A_SCORE, "cross") and limits.iterate == "best" and limits.objective != "misclassify":
        undo = bad | ((sign * clean > sign * scores) if repeatable else bad)
    put(x_adv, torch.arange(len(x)), x, undo)
    scores = clean.where(undo, scores)
    in_8_bits = judged(x_adv, rounded=True)
    own = None
    if target is not None:
        f = measured(detector, limits)
        z_in, z_out = (rows_of(values(f, images, batch)) for images in (target, x_adv))
        own = mape(z_in, z_out).cpu()
    kept = keeper.kept(x_adv)
    side = Side(
        scores=scores,
        again=scores if repeatable else judged(x_adv),
        scores_8bit=in_8_bits.where(in_8_bits.isfinite(), scores),
        distance=distances(limits, x_adv, x),
        queries=found.queries.cpu(),
        gradients=found.gradients.cpu(),
        zero_gradients=found.zero_gradients.cpu(),
        non_finite=found.non_finite.cpu() + bad + ~in_8_bits.isfinite(),
        clean_best=found.clean_best.cpu() | undo,
        stopped=found.stopped.cpu(),
        mape=own,
        crossing=crossing,
        history=None if found.history is None else sign * found.history.cpu(),
        restarts=None if found.restarts is None else sign * found.restarts.cpu(),
        shown=x_adv[show_rows(len(x_adv)).to(x.device)].cpu(),
        images=kept,
        start=None if kept is None else x,
    )
    return Scored(side, x_adv)


def distances(limits: ThreatModel, x_adv: Tensor, x: Tensor) -> Tensor:
    """How far each image went, in the threat's norm, on the CPU."""
    return gathered(len(x), lambda rows: limits.distance(x_adv[rows], x[rows]).cpu())


def pushed_out(
    judged: Callable[[Tensor], Tensor], scores: Tensor, x_adv: Tensor, x: Tensor, limits: ThreatModel, threshold: float
) -> Tensor:
    """Scores after the points that just miss the threshold were moved outward, in place, until the detector accepts.

    A search stops as near to the threshold as it can, where the rounding of a folded network, or a surrogate, decides.
    """
    scores = scores.clone()
    for factor in OUTWARD:
        missed = (~(scores.double() <= threshold)).nonzero().flatten()
        if not len(missed):
            break
        for part in pieces(len(missed)):
            rows = missed[part].to(x.device)
            further = limits.settle(x[rows] + factor * (x_adv[rows] - x[rows]), x[rows])
            found = judged(further)
            won = found.double() <= threshold
            x_adv[rows[won.to(x.device)]] = further[won.to(x.device)]
            scores[missed[part][won]] = found[won]
    return scores
