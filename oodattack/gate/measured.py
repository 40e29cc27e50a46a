"""What can be compared, from wherever it is: a run directory, a report with or without one, a baseline."""

import json
from pathlib import Path

from oodattack.gate.baseline import Area, Baseline, Cell, baseline_of
from oodattack.gate.delong import placed
from oodattack.gate.ranks import ranked
from oodattack.gate.scores import Scores, clean_name, scores_of_run
from oodattack.lookup import summary
from oodattack.report import Metrics, Report, Result, read_report

REPORT = "report.json"
CLOSE = 1e-6  # between the AUROC of a report and that of its scores


def measured(path: str | Path) -> Baseline:
    """Read a run directory, a report or a baseline.

    A report has the scores of its rows in the run directory that it lies in; elsewhere it is compared without them.

    Raises:
        ValueError: there is nothing of the kind, or it is not as it was written; one line.
    """
    path = Path(path)
    path = path / REPORT if path.is_dir() else path
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: must be a report that can be read, got {error.strerror}. Check the path.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be JSON, got {summary(error)}. Check the path.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a report or a baseline, got a JSON {type(fields).__name__}. Check the path.")
    try:
        if "baseline" in fields:
            return check_areas(baseline_of(fields))
        report = read_report(path)
        return from_report(report, scores_of_run(path.parent))
    except ValueError as error:
        known = str(error).startswith((str(path), str(path.parent)))  # which is . of a file here
        raise ValueError(str(error) if known else f"{path}: {error}") from None


def read_baseline(path: Path) -> Baseline:
    """Read what a report is compared with: anything that `measured` reads.

    Raises:
        ValueError: as there; where there is no file, it says how to make one.
    """
    if not path.exists():
        raise ValueError(
            f"`baseline` must be a file, got none at {str(path)!r}. Make it: --update, in pytest --oodattack-update."
        )
    return measured(path)


def replaced(path: Path) -> Baseline | None:
    """The baseline that an update takes the place of, or None where there is none that can be read."""
    try:
        return measured(path) if path.is_file() else None
    except ValueError:
        return None  # writing it anew is what is done about that


def from_report(report: Report, scores: Scores | None = None) -> Baseline:
    """What of a report decides whether another one is worse.

    Args:
        report: any.
        scores: of its rows, where they are known.

    Raises:
        ValueError: the scores have another AUROC than the report.
    """
    spec, known = report.spec, scores or Scores()
    found = Baseline(
        created=report.created,
        seed=spec.seed,
        precision=spec.precision,
        id=spec.id,
        targets=spec.targets,
        ood=spec.ood,
        starts=spec.starts,
        threats=spec.threats,
        detectors=spec.detectors,
        networks=spec.networks,
        versions=report.versions,
        cells=[cell_of(result, known) for result in report.results],
        skipped={s.where: s.reason for s in report.skipped},
        scores={name: ranked(vectors) for name, vectors in known.vectors.items()},
    )
    return check_areas(found)


def cell_of(result: Result, scores: Scores) -> Cell:
    """One cell, with the names of its scores."""
    known = scores.vectors.get(result.name, {})

    def area(metrics: Metrics, names: tuple[str, str]) -> Area:
        id_, ood = names if set(names) <= known.keys() else (None, None)
        return Area(auroc=metrics.auroc, n_id=metrics.n_id, n_ood=metrics.n_ood, id=id_, ood=ood)

    clean = area(result.clean, (clean_name("id"), clean_name(f"ood/{result.ood}")))
    attacked = area(result.attacked, scores.names(result.key))
    return Cell(
        detector=result.name,
        threat=result.threat,
        ood=result.ood,
        whole_box=result.whole_box,
        clean=clean,
        attacked=attacked,
        verdict=result.verdict,
        reason=result.reason,
    )


def check_areas(found: Baseline) -> Baseline:
    """Return it untouched if each AUROC is that of its scores.

    Raises:
        ValueError: one is not.
    """
    for cell in found.cells:
        for kind, area in (("clean", cell.clean), ("attacked", cell.attacked)):
            rows = found.rows(cell.detector, area)
            auroc = area.auroc if rows is None else float(placed(*rows).auroc)
            if abs(auroc - area.auroc) > CLOSE:
                raise ValueError(
                    f"`{kind}.auroc` of {cell.where} must be that of its scores, "
                    f"{auroc:.6f}, got {area.auroc:.6f}. Run again."
                )
    return found
