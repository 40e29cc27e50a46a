"""What the untouched detector says of the images that a search returned."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.aims import mape, rows_of
from oodattack.attack import Found
from oodattack.data.disk import copied, gathered, pieces, put
from oodattack.evaluation.outcome import Scored, Side, show_rows
from oodattack.evaluation.plan import measured
from oodattack.evaluation.search import Rows
from oodattack.evaluation.setup import Setup
from oodattack.metrics import id_threshold
from oodattack.numbers import TPR
from oodattack.threat import ThreatModel

OUTWARD = (1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0)  # times the distance of a point that just misses


def scored(setup: Setup, name: str, threat: ThreatModel, rows: Rows, found: Found, *, sign: int, alone: bool) -> Scored:
    """One detector's own view of the returned images; a clean image that is worse for it counts as returned.

    Args:
        setup: of the evaluation.
        name: of the detector.
        threat: what the images obey.
        rows: that were attacked.
        found: what the search returned for them.
        sign: of the side.
        alone: nobody else looks at `found`, so its images may be changed in place.
    """
    x, clean = rows.x, rows.clean[name]
    x_adv = found.x_adv if alone else copied(found.x_adv, setup.keeper.room)
    repeatable = setup.subjects[name].repeatable

    def judged(images: Tensor, *, rounded: bool = False) -> Tensor:
        return setup.score(name, images, f"{threat.name} images", rounded=rounded, finite=False)

    scores, crossing = judged(x_adv), None
    bad = ~scores.isfinite()
    if threat.aim == "cross":
        threshold = id_threshold(setup.subjects[name].id_scores, tpr=TPR)
        scores = pushed_out(judged, scores, x_adv, x, threat, threshold)
        crossing = distances(threat, x_adv, x).masked_fill(scores.double() > threshold, float("inf"))
        crossing = crossing.masked_fill(clean.double() <= threshold, 0.0)
    undo = bad
    if threat.by_score and threat.iterate == "best" and repeatable:
        undo = bad | (sign * clean > sign * scores)
    put(x_adv, torch.arange(len(x)), x, undo)
    scores = clean.where(undo, scores)
    in_8_bits = judged(x_adv, rounded=True)
    off = None
    if rows.target is not None:
        f = measured(setup.subjects[name].detector, threat)
        off = mape(*(rows_of(setup.values(f, images)) for images in (rows.target, x_adv))).cpu()
    kept = setup.keeper.kept(x_adv)
    side = Side(
        scores=scores,
        again=scores if repeatable else judged(x_adv),
        scores_8bit=in_8_bits.where(in_8_bits.isfinite(), scores),
        distance=distances(threat, x_adv, x),
        queries=found.queries.cpu(),
        gradients=found.gradients.cpu(),
        zero_gradients=found.zero_gradients.cpu(),
        non_finite=found.non_finite.cpu() + bad + ~in_8_bits.isfinite(),
        clean_best=found.clean_best.cpu() | undo,
        stopped=found.stopped.cpu(),
        mape=off,
        crossing=crossing,
        history=None if found.history is None else sign * found.history.cpu(),
        restarts=None if found.restarts is None else sign * found.restarts.cpu(),
        shown=x_adv[show_rows(len(x_adv)).to(x.device)].cpu(),
        images=kept,
        start=None if kept is None else x,
    )
    return Scored(side, x_adv)


def distances(threat: ThreatModel, x_adv: Tensor, x: Tensor) -> Tensor:
    """How far each image went, in the threat's norm, on the CPU."""
    return gathered(len(x), lambda rows: threat.distance(x_adv[rows], x[rows]).cpu())


def pushed_out(
    judged: Callable[[Tensor], Tensor], scores: Tensor, x_adv: Tensor, x: Tensor, threat: ThreatModel, threshold: float
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
            further = threat.settle(x[rows] + factor * (x_adv[rows] - x[rows]), x[rows])
            found = judged(further)
            won = found.double() <= threshold
            x_adv[rows[won.to(x.device)]] = further[won.to(x.device)]
            scores[missed[part][won]] = found[won]
    return scores
