"""`oodattack run`: from the words of a command line to a finished run directory, in one go or several."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from oodattack.data import Images
from oodattack.data.disk import Room, room_on_disk
from oodattack.detector import Detector
from oodattack.detectors import DETECTORS, store
from oodattack.evaluation import Progress, Provenance, automatic, evaluate
from oodattack.full_precision import full_precision
from oodattack.gallery.run_page import write_page
from oodattack.job.ask import DEFAULT_DETECTORS, DEFAULT_THREATS, ON_A_MODEL, Job
from oodattack.job.detectors import Wanted, build_detector, split_name
from oodattack.job.device import checked_device
from oodattack.job.folder import PARTS, Interrupted, forget, run_directory, tidy, write_sheet
from oodattack.job.images import Loaded, fit_images, fit_moved, load_images
from oodattack.job.networks import Network, learnt_by, load_networks
from oodattack.job.planned import checked_before, checked_now, job_of, plan_of
from oodattack.job.suited import check_open, check_outlier_class
from oodattack.report import Report, read_report
from oodattack.runs.go_on import PLAN, how_to_go_on
from oodattack.runs.images import dtype_of
from oodattack.runs.keeper import RunKeeper
from oodattack.runs.manifest import MANIFEST, write_manifest
from oodattack.runs.plan import Plan, read_plan
from oodattack.runs.ranks import Ranks, join
from oodattack.threat import Threat, own_name, read_threat


class Asked(NamedTuple):
    """A job whose words have been understood.

    Attributes:
        job: itself.
        threats: read.
        wanted: detectors, each once.
        device: of this process.
        ranks: the processes of the run.
    """

    job: Job
    threats: list[Threat]
    wanted: list[Wanted]
    device: torch.device
    ranks: Ranks


class Ready(NamedTuple):
    """What a job is about, loaded and fitted."""

    images: Loaded
    networks: Mapping[str, Network]
    detectors: dict[str, Detector]
    learnt: Mapping[str, Any]  # images, or their digests


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
    if folder.is_dir() and not (folder / PLAN).exists() and not (folder / "journal").exists():
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
    plan = read_plan(folder)
    if (folder / MANIFEST).exists():
        shutil.rmtree(folder / "journal", ignore_errors=True)  # where a kill came between the two
        return read_report(folder / "report.json"), folder
    return run_in(folder, understood(job_of(plan)), plan, progress), folder


def understood(job: Job) -> Asked:
    """Everything about a job that can be checked at once."""
    threats = [own_name(read_threat(t)) for t in job.threats or DEFAULT_THREATS]
    if job.model is None and (job.weights or job.mean or job.std):
        raise ValueError("`--weights`, `--mean`, `--std` must come with --model, got no model. Add it, or drop them.")
    names = job.detectors or (ON_A_MODEL if job.model else DEFAULT_DETECTORS)
    wanted = list(dict.fromkeys(split_name(name, job) for name in names))
    ranks = join()
    device = checked_device(job.device, ranks)
    return Asked(job, threats, wanted, device, ranks)


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


def prepare(asked: Asked, room: Room, progress: Progress | None) -> Ready:
    """Load images and networks, fit detectors; `room` is for images that are many."""
    job, device = replace(asked.job, device=str(asked.device)), asked.device
    images = load_images(job, asked.threats, room)
    names = [n for wanted in asked.wanted for n in wanted.networks]
    networks = load_networks(names, job, images.id, progress)
    dtype = dtype_of(job.dtype)
    rows = [DETECTORS[d] for d, _ in asked.wanted if d in DETECTORS]
    fit = None
    if any(row.fits for row in rows):
        fit = fit_moved(fit_images(job, rows, room=room), device, dtype, room)
    one, labels = images.id.x[:1].to(device, dtype), {"--id": images.id.y, "--fit": fit.y if fit else None}
    detectors: dict[str, Detector] = {}
    for wanted in told(asked, progress):
        nets = [networks[n].seen_by(wanted.detector).to(dtype) for n in wanted.networks]
        for n in wanted.networks:
            check_outlier_class(wanted.detector, networks[n], one, labels)
        detectors[wanted.name] = found = build_detector(wanted.detector, nets, fit, device, dtype)
        check_open(wanted.name, found, one)
    learnt = learnt_by(names, job) | (fit.sets() if fit else {})
    return Ready(images.to(device, dtype, room), networks, detectors, learnt)


def told(asked: Asked, progress: Progress | None) -> Iterator[Wanted]:
    """The detectors of a job; what is being fitted is told meanwhile."""
    fitted = [w for w in asked.wanted if w.detector in DETECTORS and DETECTORS[w.detector].fits]
    tell = progress if fitted and asked.ranks.speaks else None
    for wanted in asked.wanted:
        if tell and wanted in fitted:
            i = fitted.index(wanted)
            tell(f"fitting {wanted.name} ({i + 1} of {len(fitted)})", i, len(fitted))
        yield wanted
    if tell:
        tell("fitting is done", len(fitted), len(fitted))


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
        provenance=provenance(job, images, ready.networks)._replace(learnt=ready.learnt),
        keeper=keeper,
    )


def provenance(job: Job, images: Loaded, networks: Mapping[str, Network]) -> Provenance:
    """What the report says of where things come from."""

    def source(i: Images) -> tuple[str, str]:
        return i.name, i.source

    return Provenance(
        command=job.command,
        samples=job.samples,
        id_accuracy={name: n.accuracy for name, n in networks.items() if n.accuracy is not None},
        sources={
            "id": source(images.id),
            "targets": (f"{images.id.name} (reference)", images.id.source),
            **{i.name: source(i) for i in images.ood},
        },
    )


def save_detectors(detectors: dict[str, Detector], folder: Path) -> None:
    """Write what each detector was fitted to, in files named after it; user code has none."""
    for name, detector in detectors.items():
        if isinstance(detector, nn.Module) and store.fingerprint(detector) is not None:
            folder.mkdir(exist_ok=True)
            store.save(detector, folder / name)
