"""Which detectors have bounds, and how: the literal dict."""

from typing import Any

import torch

from oodattack.bounds import scores
from oodattack.bounds.affine import Shape
from oodattack.bounds.ball import Ball, Interval
from oodattack.bounds.feature_scores import knn_bounds, mahalanobis_bounds
from oodattack.bounds.linear_scores import minus_largest
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.scores import OnBall, Prepare
from oodattack.detectors import (
    CCU,
    DICE,
    KNN,
    MSP,
    ODIN,
    Confident,
    Energy,
    JemPx,
    JemPy,
    Mahalanobis,
    MaxLogit,
    OEScore,
    OutlierClass,
    ReAct,
    ViM,
    WeightedSum,
)


def weighted_sum(detector: Any, image: Shape, *, deep: bool) -> OnBall:
    """Sum of the bounds of the z-scores of all parts."""
    parts = [prepared(part, image, deep=deep) for part in detector.parts.values()]
    scales = list(zip(parts, detector.means, detector.stds, strict=True))

    def bounds(ball: Ball) -> Interval:
        found = [(part(ball), mean, std) for part, mean, std in scales]
        ends = [torch.stack([(each[i] - mean) / std for each, mean, std in found]).sum(dim=0) for i in (0, 1)]
        return Interval(*ends)

    return bounds


SCORES: dict[type, Prepare] = {
    MaxLogit: scores.of_logits(lambda _, found, at: minus_largest(found, scores.unit(found, at), at)),
    Energy: scores.of_logits(scores.energy_of),
    JemPx: scores.of_logits(scores.energy_of),
    MSP: scores.of_logits(scores.msp_of),
    JemPy: scores.of_logits(scores.msp_of),
    Confident: scores.of_logits(scores.msp_of),
    ODIN: scores.odin,
    OEScore: scores.of_logits(scores.oe_score_of),
    OutlierClass: scores.of_logits(scores.outlier_class_of),
    Mahalanobis: scores.of_logits(lambda detector, found, _: mahalanobis_bounds(found, detector.gaussians)),
    KNN: scores.of_logits(lambda detector, found, _: knn_bounds(found, detector.bank, detector.k)),
    ViM: scores.of_logits(scores.vim_of),
    ReAct: scores.of_head(scores.react),
    DICE: scores.of_head(scores.dice),
    CCU: scores.ccu,
    WeightedSum: weighted_sum,
}


def check_kind(detector: Any) -> None:
    """Raise NoBounds unless the detector is one of the kinds in `SCORES`."""
    if type(detector) not in SCORES:
        names = ", ".join(sorted(kind.__name__ for kind in SCORES))
        raise NoBounds(f"`detector` must be one with bounds, got {type(detector).__name__}. Take one of {names}.")


def prepared(detector: Any, image: Shape, *, deep: bool) -> OnBall:
    """Bounds of a detector's scores on any ball.

    Args:
        detector: in eval mode and float64.
        image: shape of one row.
        deep: carry linear bounds back to the image; else intervals alone, which cost less.

    Raises:
        NoBounds: a detector without bounds, or a network without.
    """
    check_kind(detector)
    return SCORES[type(detector)](detector, image, deep=deep)
