"""Attack a detector and judge it: against a least AUROC, or against a baseline. What the pytest fixture does."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack import data
from oodattack.detector import Detector
from oodattack.evaluation import Attacked, Keeper, evaluate
from oodattack.evaluation.arguments import by_name
from oodattack.evaluation.check import check_images
from oodattack.evaluation.images import ImageSet, device_of, in_memory
from oodattack.gate import wording
from oodattack.gate.compare import compare
from oodattack.gate.formats import text
from oodattack.gate.measured import from_report, read_baseline
from oodattack.gate.scores import Scores
from oodattack.report import Report
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, covers, limits_of, members_of, read_threat, whole_box

Pictures = ImageSet | str  # or the name of a data set


class ScoreKeeper(Keeper):
    """Keeps the scores of all rows in memory."""

    def __init__(self) -> None:
        self.scores = Scores()

    def clean(self, detector: str, images: str, scores: Tensor) -> None:
        """Keep the scores of a set before any attack."""
        self.scores.clean(detector, images, scores.detach().cpu().double().numpy())

    def cell(self, attacked: Attacked) -> None:
        """Keep the scores of one attacked side."""
        cell = (attacked.detector, attacked.threat.name, attacked.ood)
        self.scores.side(cell, attacked.images, attacked.side.scores.double().numpy())


class Judged(NamedTuple):
    """A report, and why the detector is not robust: lines, none where it is."""

    report: Report
    scores: Scores
    failures: list[str]


def judged(
    detector: Detector | Mapping[str, Detector],
    *,
    threat: str | Path | Threat | Iterable[str | Path | Threat],
    id: Pictures,
    ood: Pictures | Mapping[str, Pictures],
    seed: int,
    judge: Callable[[Report, Scores, list[Threat]], list[str]],
    **options: Any,
) -> Judged:
    """Evaluate within the threats and the whole box, and ask `judge` about the result.

    Args:
        detector: as for `evaluate`.
        threat: one or several, each a name, a file or a `ThreatModel`.
        id: images in [0, 1], shape (N, C, H, W), a loader of them as for `evaluate`, or the name of a data set.
        ood: the same, or several by name.
        seed: of the searches, and of the data sets that are drawn.
        judge: report, scores and the threats asked about -> failures.
        options: of `evaluate`.

    Raises:
        ValueError: as `evaluate`; a data set that cannot be loaded.
    """
    one = isinstance(threat, str | Path | ThreatModel | Suite | Sweep) or not isinstance(threat, Iterable)
    threats: list[Any] = [threat] if one else list(threat)  # type: ignore[arg-type]
    read_in = partial(pictures, device=device_of(by_name(detector)), seed=seed)
    x_id = read_in(id, "id")
    check_images(x_id, "id", like=x_id)
    sets = ood if isinstance(ood, Mapping) else {ood if isinstance(ood, str) else "ood": ood}
    x_ood = {name: read_in(x, name, like=x_id) for name, x in sets.items()}
    keeper = ScoreKeeper()
    read = [t if isinstance(t, ThreatModel | Suite | Sweep) else read_threat(t) for t in threats]
    asked = [*threats, *boxes_beside(read)]
    report = evaluate(detector, id=x_id, ood=x_ood, threats=asked, seed=seed, keeper=keeper, **options)
    return Judged(report, keeper.scores, judge(report, keeper.scores, read))


def boxes_beside(threats: Sequence[Threat]) -> list[str]:
    """The shipped threat that searches the whole box on every side attacked, unless one of `threats` does already.

    Without it, nobody knows whether a search that finds nothing works at all.
    """
    boxes = [t for t in threats if whole_box(t)]
    alone = [t for t in threats if not any(covers(b, t) and limits_of(b).start == limits_of(t).start for b in boxes)]
    if not alone:
        return []
    return ["sanity-full-box-both" if any(limits_of(t).attacks_id for t in alone) else "sanity-full-box"]


def pictures(x: Pictures, name: str, *, device: torch.device, seed: int, like: Tensor | None = None) -> Tensor:
    """Images, those of a loader, or those of a named data set in the format of `like`; read onto the device."""
    if not isinstance(x, str):
        return in_memory(x, name, device=device, seed=seed)
    look: dict[str, Any] = {} if like is None else {"channels": like.shape[1], "size": like.shape[2]}
    x = data.load(x, seed=seed, **look).x
    return x.to(device, torch.float32) if like is None else x.to(like)


def at_least(min_auroc: float, *, accept_inconclusive: bool) -> Callable[[Report, Scores, list[Threat]], list[str]]:
    """Every attacked AUROC must be that high, and the attack on it must not look as if it had failed."""

    def judge(report: Report, _scores: Scores, threats: list[Threat]) -> list[str]:
        names = [t.name for t in threats]
        asked = [r for r in report.results if r.sweep in names or r.threat in names]
        low = [
            f"{r.where}: AUROC must be >= {min_auroc:g}, got {r.attacked.auroc:.3f} "
            f"({r.attacked.auroc_low:.3f} to {r.attacked.auroc_high:.3f}); clean {r.clean.auroc:.3f}"
            for r in asked
            if r.attacked.auroc < min_auroc
        ]
        unsure = [
            f"{r.where}: AUROC {r.attacked.auroc:.3f} is no evidence, the attack is inconclusive: {r.reason}"
            for r in asked
            if r.verdict == "inconclusive" and r.attacked.auroc >= min_auroc and not accept_inconclusive
        ]
        return [*low, *unsure, *not_attacked(report, threats)]

    return judge


def not_attacked(report: Report, threats: list[Threat]) -> list[str]:
    """Detectors and threats without a single result, and why: a suite or sweep for the reason of its first member."""
    done = {(r.name, t) for r in report.results for t in (r.threat, r.sweep)}
    lines = []
    for detector in report.spec.detectors:
        for threat in [t for t in threats if (detector, t.name) not in done]:
            own = {threat.name, *(m.name for m in members_of(threat))}
            why = [s.reason for s in report.skipped if s.name == detector and s.threat in own]
            lines.append(f"{detector}, {threat.name}: nothing was attacked{': ' + why[0] if why else ''}")
    return lines


def nothing_attacked(report: Report, _scores: Scores, threats: list[Threat]) -> list[str]:
    """Why no detector was attacked by any of the threats; nothing where one was: a baseline of the others is of use."""
    lines = not_attacked(report, threats)
    return lines if len(lines) == len(report.spec.detectors) * len(threats) else []


def no_worse(
    path: Path, *, max_drop: float, alpha: float, accept_inconclusive: bool = False
) -> Callable[[Report, Scores, list[Threat]], list[str]]:
    """No AUROC may be lower than in a baseline by more than the margin and noise, see `compare`.

    Nor may an attack that was evidence there look now as if it had failed, and something must have been attacked.
    """
    old = read_baseline(path)

    def judge(report: Report, scores: Scores, threats: list[Threat]) -> list[str]:
        if failures := nothing_attacked(report, scores, threats):
            return failures
        found = compare(
            from_report(report, scores),
            old,
            max_drop=max_drop,
            alpha=alpha,
            accept_inconclusive=accept_inconclusive,
        )
        if found.failed:
            return list(text(found))
        for warning in [*not_attacked(report, threats), *wording.warnings(found)]:
            warnings.warn(warning, stacklevel=4)  # in the test: judge, judged, the fixture
        return []

    return judge
