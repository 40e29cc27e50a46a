"""The certified side of a cell of the report: what no attack can beat, beside what attacks have left.

Apart from the evaluation, for whoever checks a report goes by the same rules without any attack.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oodattack.bounds import NoBounds, ScoreBounds, guarantee, row_radius, score_bounds, undecided_share, worst_scores
from oodattack.bounds.ball import NORMS
from oodattack.data.disk import blocks
from oodattack.metrics import id_threshold
from oodattack.numbers import TPR
from oodattack.report import Certified, Radius
from oodattack.threat import Threat, limits_of, members_of

SLACK = 1e-5  # times 1 + |bound|: a score in single precision may miss an exact bound by so much
HALVINGS = 4  # radii of rows are known to eps / 16
Scores = tuple[Tensor, Tensor]  # of ID and OOD rows, shapes (N,) and (M,)


class Certificates:
    """Bounds of the scores of one evaluation; a set has them once for every detector and radius."""

    def __init__(self) -> None:
        self._bounds: dict[tuple[str, str, str, float], ScoreBounds] = {}
        self._radii: dict[tuple[str, str, str, float], Radius] = {}

    def of(
        self,
        detector: Any,
        name: str,
        threat: Threat,
        sets: Sequence[tuple[str, Tensor]],
        clean: Scores,
        attacked: Scores,
    ) -> Certified | str:
        """The guarantee of one cell, or why there is none.

        Args:
            detector: the untouched one.
            name: of the detector.
            threat: a threat model or suite.
            sets: (name, images) of the ID and of the OOD rows.
            clean: scores of these rows before any attack.
            attacked: what attacks left of them.

        Raises:
            RuntimeError: an attack has beaten a bound, which would be a bug.
        """
        start, limits = time.perf_counter(), limits_of(threat)
        if (reason := unbounded(threat)) is not None:
            return reason
        try:
            of_id, of_ood = (
                self._of_set(detector, name, images, x, limits.norm, limits.eps if moved else 0.0)
                for (images, x), moved in zip(sets, (limits.attacks_id, limits.attacks_ood), strict=True)
            )
            radius = None
            if limits.attacks_ood:
                radius = self._radius(detector, name, *sets[1], limits.norm, limits.eps, clean)
        except NoBounds as error:
            return " ".join(str(error).split())
        check_sound(name, threat, of_id.upper, attacked[0])
        check_sound(name, threat, -of_ood.lower, -attacked[1])
        worst = worst_scores(of_id, of_ood)
        undecided = undecided_share(worst, (attacked[0].double(), attacked[1].double()))
        left = guarantee(of_id, of_ood)
        return Certified(**left._asdict(), undecided=undecided, radius=radius, seconds=time.perf_counter() - start)

    def _of_set(self, detector: Any, name: str, images: str, x: Tensor, norm: str, eps: float) -> ScoreBounds:
        """Bounds of one set's scores."""
        key = (name, images, norm, eps)
        if key not in self._bounds:
            parts = [score_bounds(detector, block, norm=norm, eps=eps) for block in blocks(x)]
            self._bounds[key] = ScoreBounds(*[torch.cat(ends) for ends in zip(*parts, strict=True)])
        return self._bounds[key]

    def _radius(
        self, detector: Any, name: str, images: str, x: Tensor, norm: str, eps: float, clean: Scores
    ) -> Radius | None:
        """Radii within which OOD rows stay above the threshold that accepts 95 % of the clean ID rows."""
        key = (name, images, norm, eps)
        if key not in self._radii:
            threshold = id_threshold(clean[0], tpr=TPR)
            detected = clean[1].double() > threshold
            if not detected.any():
                return None
            radii = torch.full((len(x),), eps, dtype=torch.float64)
            open_rows = detected & (self._bounds[key].lower <= threshold)  # the others hold on the whole ball
            some = x[open_rows.to(x.device)]
            if len(some):
                found = [
                    row_radius(detector, block, norm=norm, threshold=threshold, most=eps, rounds=HALVINGS)
                    for block in blocks(some)
                ]
                radii[open_rows] = torch.cat(found)
            ends = radii[detected].quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
            p10, median, p90 = ends.tolist()
            self._radii[key] = Radius(rows=int(detected.sum()), p10=p10, median=median, p90=p90)
        return self._radii[key]


def unbounded(threat: Threat) -> str | None:
    """Why bounds on a ball say nothing of a threat, or None where they do."""
    members = members_of(threat)
    for m in members:
        if not m.by_score:
            return f"no bounds for the aim {m.aim if m.objective != 'misclassify' else m.objective}"
    if any(m.start != "ood" or m.after is not None for m in members):
        return "its images do not start from the OOD set alone"
    norm = limits_of(threat).norm
    return None if norm in NORMS else f"no bounds for the norm {norm}"


def check_sound(name: str, threat: Threat, upper: Tensor, scores: Tensor) -> None:
    """Raise RuntimeError if a score is above its bound."""
    over = scores.double() - upper - SLACK * (1 + upper.abs())
    if (over > 0).any():
        row = int(over.argmax())
        raise RuntimeError(
            f"bounds of {name!r} must hold under {threat.name!r}, got {scores[row]:.6g} beyond {upper[row]:.6g} "
            f"in row {row}. This is a bug."
        )
