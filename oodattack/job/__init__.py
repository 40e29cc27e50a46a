"""From the words of a command line to the arguments of `evaluate`: data, networks and detectors by name."""

from pathlib import Path

import torch

from oodattack.detector import Detector
from oodattack.detectors import DETECTORS, Fit
from oodattack.evaluation import Progress, Provenance, evaluate
from oodattack.job.ask import DEFAULT_DETECTORS, DEFAULT_THREATS, ON_A_MODEL, Job
from oodattack.job.detectors import build_detector, split_name
from oodattack.job.folder import run_directory, write_sheet
from oodattack.job.images import fit_images, load_images
from oodattack.job.networks import load_networks, train
from oodattack.lookup import summary
from oodattack.report import Report
from oodattack.threat import Threat, read_threat

__all__ = ["Job", "run", "train"]


def run(job: Job, *, progress: Progress | None = None) -> tuple[Report, Path]:
    """Do what a job says; writes report.json and the contact sheets into the run directory.

    Returns:
        The report and the run directory.

    Raises:
        ValueError: anything that the user can put right; one line.
    """
    threats = [read_threat(t) for t in job.threats or DEFAULT_THREATS]
    if job.model is None and (job.weights or job.mean or job.std):
        raise ValueError("`--weights`, `--mean`, `--std` must come with --model, got no model. Add it, or drop them.")
    names = list(dict.fromkeys(job.detectors or (ON_A_MODEL if job.model else DEFAULT_DETECTORS)))
    wanted = [split_name(name, job) for name in names]
    device = checked_device(job.device)
    with run_directory(job.out) as out:
        return run_in(out, job, threats, names, wanted, device, progress), out


def run_in(
    out: Path,
    job: Job,
    threats: list[Threat],
    names: list[str],
    wanted: list[tuple[str, str | None]],
    device: torch.device,
    progress: Progress | None,
) -> Report:
    """The part of `run` that comes after everything that can be checked at once, in a run directory."""
    images = load_images(job, threats)
    networks = load_networks([n for _, some in wanted for n in (some or "").split(",") if n], job, images.id, progress)
    dtype = torch.float64 if job.dtype == "float64" else torch.float32
    rows = [DETECTORS[d] for d, _ in wanted if d in DETECTORS]
    fit = fit_images(job, tunes=any(row.tunes for row in rows)) if any(row.fits for row in rows) else None
    fit = fit and Fit(fit.x.to(device, dtype), fit.y.to(device), None if fit.ood is None else fit.ood.to(device, dtype))
    detectors: dict[str, Detector] = {}
    for name, (detector, network) in zip(names, wanted, strict=True):
        key = name if network is None else f"{detector}@{network}"
        nets = [] if network is None else [networks[n].net.to(dtype) for n in network.split(",")]
        detectors[key] = build_detector(detector, nets, fit, device, dtype)
    report = evaluate(
        detectors,
        id=images.id.x.to(device, dtype),
        ood={i.name: i.x.to(device, dtype) for i in images.ood},
        targets=None if images.targets is None else images.targets.x.to(device, dtype),
        starts={start: x.to(device, dtype) for start, x in images.starts.items()},
        threats=threats,
        seed=job.seed,
        batch_size=job.batch_size,
        precision=job.precision,  # type: ignore[arg-type]
        progress=progress,
        watch=lambda shown: write_sheet(shown, out),
        provenance=Provenance(
            command=job.command,
            samples=job.samples,
            id_accuracy={name: n.accuracy for name, n in networks.items() if n.accuracy is not None},
            sources={
                "id": (images.id.name, images.id.source),
                "targets": (f"{images.id.name} (reference)", images.id.source),
                **{i.name: (i.name, i.source) for i in images.ood},
            },
        ),
    )
    report.save(out / "report.json")
    return report


def checked_device(name: str) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        ValueError: it does not.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` must be there, got {name!r}: {summary(error, 100)}. Try cpu.") from None
    return device
