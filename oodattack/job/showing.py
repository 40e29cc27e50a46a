"""`oodattack gallery`: a finished run in pictures, with its detectors and networks where they can be loaded."""

from pathlib import Path
from typing import NamedTuple

from oodattack.data import Images
from oodattack.gallery.judge import Judge, judge_by
from oodattack.gallery.saved import Function, Saved, computed, id_images, saved
from oodattack.gallery.write import gallery as written
from oodattack.job.detectors import split_name
from oodattack.job.networks import load_networks
from oodattack.job.planned import job_of
from oodattack.job.verifying import load_detectors
from oodattack.lookup import unknown
from oodattack.runs.plan import read_plan
from oodattack.runs.verify import opened


class Shown(NamedTuple):
    """A gallery: its page, and how many of the cells of the run are in it."""

    page: Path
    shown: int
    cells: int


def gallery(folder: Path, *, worst: int = 8, class_: int | None = None, judge: str | None = None) -> Shown:
    """Write DIR/gallery/gallery.html and contact sheets beside it, for the cells that have rows to show.

    Args:
        folder: the directory of a finished run.
        worst: rows per cell.
        class_: only rows whose adversarial image is predicted to be of this class.
        judge: a detector of the run that is to say what looks like an ID image; by default distances in pixels do.

    Returns:
        The page, and for how many cells.

    Raises:
        ValueError: no finished run, nothing to show, or a detector that is needed and cannot be loaded.
    """
    run, remark = saved(folder), ""
    if judge is not None and judge not in run.report.spec.detectors:
        raise unknown("--judge", judge, run.report.spec.detectors)
    try:
        detectors, logits = loaded(folder)
    except ValueError as error:
        if class_ is not None or judge is not None:
            raise
        detectors, logits, remark = {}, {}, f"Without predicted classes: {error}"
    by = None if judge is None else named(run, judge, detectors[judge])
    page = written(folder, worst=worst, class_=class_, detectors=detectors, logits=logits, judge=by, remark=remark)
    return Shown(page, sum(1 for _ in page.parent.rglob("*.png")), len(run.cells))


def named(run: Saved, name: str, detector: Function) -> Judge:
    """A detector as judge."""
    return judge_by(name, lambda x: computed(detector, x, run.inputs.device), id_images(run))


def loaded(folder: Path) -> tuple[dict[str, Function], dict[str, Function]]:
    """The detectors of a run, and by the same names the logits of their networks."""
    run, job = opened(folder), job_of(read_plan(folder))
    detectors: dict[str, Function] = dict(load_detectors(run, job))
    wanted = {name: split_name(name, job) for name in detectors}
    single = {name: some[0] for name, (_, some) in wanted.items() if len(some) == 1}
    x = saved(folder).inputs.block("id", 0)
    networks = load_networks(list(single.values()), job, Images(job.id, x, None, ""), None)
    return detectors, {name: networks[net].seen_by(wanted[name].detector).to(x.dtype) for name, net in single.items()}
