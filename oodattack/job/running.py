"""`oodattack run`: from the words of a command line to a finished run directory, in one go or several."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from oodattack.data.disk import room_on_disk
from oodattack.detector import Detector
from oodattack.detectors import store
from oodattack.evaluation import Progress, Provenance, automatic, evaluate
from oodattack.full_precision import full_precision
from oodattack.gallery.run_page import write_page
from oodattack.job.ask import Job
from oodattack.job.folder import PARTS, Interrupted, forget, run_directory, tidy, write_sheet
from oodattack.job.planned import checked_before, checked_now, job_of, plan_of
from oodattack.job.prepared import Ready, prepare
from oodattack.job.understood import Asked, understood
from oodattack.report import Report, read_report
from oodattack.runs.go_on import PLAN, how_to_go_on
from oodattack.runs.keeper import RunKeeper
from oodattack.runs.manifest import MANIFEST, write_manifest
from oodattack.runs.plan import Plan, read_plan


def run(job: Job, *, progress: Progress | None = None) -> tuple[Report, Path]:
    """Do what a job says; writes report.json, report.html, contact sheets and evidence into the run directory.

    Returns:
        The report and the run directory.

    Raises:
        ValueError: anything that the user can put right; one line.
        Interrupted: Ctrl-C, after which `resume` can go on.
    """
    asked = understood(job)
    with ExitStack() as stack:
        ranks = asked.ranks
        out = ranks.shared(lambda: stack.enter_context(run_directory(job.out)) if ranks.speaks else None)[0]
        assert out is not None
        try:
            return run_in(out, asked, None, progress), out
        except (Exception, SystemExit) as error:
            if ranks.speaks and not forget(out) and isinstance(error, ValueError):
                raise ValueError(f"{error} What was finished is kept: {how_to_go_on(out)}.") from error
            raise


def resume(folder: Path, *, progress: Progress | None = None) -> tuple[Report, Path]:
    """Go on with the run in a folder; a finished one is only read.

    Raises:
        ValueError: no plan, or something that it names has changed; one line that names the first field.
        Interrupted: Ctrl-C.
    """
    check_planned(folder)
    plan = read_plan(folder)
    if (folder / MANIFEST).exists():
        shutil.rmtree(folder / "journal", ignore_errors=True)  # where a kill came between the two
        return read_report(folder / "report.json"), folder
    return run_in(folder, understood(job_of(plan)), plan, progress), folder


def check_planned(folder: Path) -> None:
    """Raise ValueError where a folder is no run directory, or that of a run which stopped before it had a plan."""
    if not folder.is_dir() or (folder / PLAN).exists() or (folder / "journal").exists():
        return
    inside = sorted(path.name for path in folder.iterdir())
    strange = [name for name in inside if name not in PARTS and not name.startswith(PLAN)]
    if strange:
        raise ValueError(
            f"{folder}: `--resume` must name the directory of a run, got one with {strange[0]} and without "
            f"{PLAN}. Check the path."
        )
    elsewhere = ", with a new --out" if inside else ""
    raise ValueError(
        f"{folder}: a run must have a plan to go on with, got none: nothing was finished before it stopped. "
        f"Give the run command again{elsewhere}."
    )


@full_precision()  # also what detectors are fitted to
def run_in(out: Path, asked: Asked, then: Plan | None, progress: Progress | None) -> Report:
    """The part of `run` that comes after everything that can be checked at once, in a run directory.

    Args:
        out: the directory.
        asked: the job.
        then: the plan of the run that goes on, or None for a new one.
        progress: see `evaluate`.
    """
    ranks = asked.ranks

    def room(like: torch.Tensor) -> torch.Tensor:
        return room_on_disk(like, out)

    try:
        if then is not None and ranks.speaks:
            tidy(out)  # the others wait at the next line
        torch.set_num_threads(ranks.agree(then.threads if then else torch.get_num_threads()))
        if then is not None:
            checked_before(then, asked.job, asked.threats, out)
        with ranks.one_first():
            ready = prepare(asked, room, progress)
        size = then.batch_size if then else asked.job.batch_size
        size = ranks.agree(size or automatic(next(iter(ready.detectors.values())), ready.images.id.x).size)
        plan = ranks.agree(plan_of(asked.job, asked.threats, ready.images, ready.detectors, size))
        if then is not None:
            checked_now(then, plan, out)
        elif ranks.speaks:
            plan.save(out)
        keeper = RunKeeper(out, (then or plan).sha256(), ranks)
        if ranks.speaks:
            save_detectors(ready.detectors, out / "detectors")
        report = measured(asked, ready, size, keeper, progress if ranks.speaks else None)
        if ranks.speaks:
            keeper.shards.finish()
            report.save(out / "report.json")
            write_page(out, ready.detectors)
            write_manifest(out)
        ranks.exchange(None)  # nobody needs the journal any more
        if ranks.speaks:
            shutil.rmtree(keeper.journal.folder, ignore_errors=True)
    except KeyboardInterrupt:
        raise Interrupted(out) from None
    return report


def measured(asked: Asked, ready: Ready, size: int, keeper: RunKeeper, progress: Progress | None) -> Report:
    """The evaluation of a job."""
    job, images = asked.job, ready.images
    return evaluate(
        ready.detectors,
        id=images.id.x,
        ood={i.name: i.x for i in images.ood},
        targets=None if images.targets is None else images.targets.x,
        starts=images.starts,
        threats=asked.threats,
        seed=job.seed,
        batch_size=size,
        precision=job.precision,  # type: ignore[arg-type]
        certify=job.certify,
        progress=progress,
        watch=(lambda shown: write_sheet(shown, keeper.folder)) if asked.ranks.speaks else None,
        provenance=provenance(job, ready),
        keeper=keeper,
    )


def provenance(job: Job, ready: Ready) -> Provenance:
    """What the report says of where things come from."""
    images = ready.images
    return Provenance(
        command=job.command,
        samples=job.samples,
        id_accuracy={name: n.accuracy for name, n in ready.networks.items() if n.accuracy is not None},
        sources={
            "id": (images.id.name, images.id.source),
            "targets": (f"{images.id.name} (reference)", images.id.source),
            **{i.name: (i.name, i.source) for i in images.ood},
        },
        learnt=ready.learnt,
    )


def save_detectors(detectors: dict[str, Detector], folder: Path) -> None:
    """Write what each detector was fitted to, in files named after it; user code has none."""
    for name, detector in detectors.items():
        if isinstance(detector, nn.Module) and store.fingerprint(detector) is not None:
            folder.mkdir(exist_ok=True)
            store.save(detector, folder / name)
