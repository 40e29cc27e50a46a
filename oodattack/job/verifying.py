"""`oodattack verify`: the detectors of a finished run, loaded afresh, and what they say of its evidence."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from oodattack.data import Images
from oodattack.detector import Detector
from oodattack.detectors import DETECTORS, Fit, store
from oodattack.detectors.nodes import Stock, module_node
from oodattack.job.ask import Job
from oodattack.job.detectors import split_name, user_detector
from oodattack.job.device import checked_device
from oodattack.job.networks import load_networks
from oodattack.job.planned import files_of, job_of
from oodattack.lookup import summary
from oodattack.runs.images import Inputs, dtype_of
from oodattack.runs.line import Line, told
from oodattack.runs.verify import Opened, of_files, of_run, opened


def verify(folder: Path) -> Iterator[Line]:
    """Claimed against recomputed, line by line; files first, for nothing else is to be trusted before.

    Raises:
        ValueError: no finished run, or one whose detectors cannot be loaded.
    """
    yield from of_files(folder)
    try:
        run = opened(folder)
        job = job_of(run.plan)
        for name, digest in files_of(job).items():
            yield told(f"{name}, a file of yours outside the directory", run.plan.files.get(name), digest)
        detectors = load_detectors(run, job)
        yield from of_names(detectors, job)
        yield from of_run(run, detectors, {name: store.fingerprint(d) for name, d in detectors.items()})
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:  # whatever a forged file leads to
        raise ValueError(f"{folder}: evidence must be as it was written, got {summary(error)}. Run again.") from error


def of_names(detectors: Mapping[str, Detector], job: Job) -> Iterator[Line]:
    """Each detector of the table is what the table makes under its name; one that is fitted, of that kind at least."""
    empty = torch.empty(0)
    for name, detector in detectors.items():
        row = DETECTORS.get(split_name(name, job).detector)
        if row is None:
            continue
        if row.fits:
            yield told(f"{name}: kind of detector", row.tuned_from or row.name, getattr(detector, "name", ""))
            continue
        stock = Stock({}, [])
        module_node(detector, "`detector`", stock)
        again = row.on(stock.nets, Fit(empty, empty)).to(torch.device(job.device), dtype_of(job.dtype))
        yield told(f"{name}: built from its network", store.fingerprint(detector), store.fingerprint(again))


def device_of_run(folder: Path, job: Job) -> torch.device:
    """The device that a run was computed on; ValueError where this machine has none such."""
    try:
        return checked_device(job.device)
    except ValueError:
        raise ValueError(
            f"{folder}: the device of the run must be there to compute again, got no {job.device!r}. "
            "Take a machine that has it."
        ) from None


def load_detectors(run: Opened, job: Job) -> dict[str, Detector]:
    """The detectors that a report names: as they were saved, on their networks, or user code."""
    device, dtype = device_of_run(run.folder, job), dtype_of(job.dtype)
    inputs = Inputs(run.folder, run.evidence, run.plan.job)
    x = inputs.block("id", 0)
    wanted = {name: split_name(name, job) for name in run.report.spec.detectors}
    names = [n for _, some in wanted.values() for n in some]
    networks = load_networks(names, job, Images(job.id, x, None, ""), None)
    found: dict[str, Detector] = {}
    for name, (detector, some) in wanted.items():
        if detector not in DETECTORS:
            found[name] = user_detector(detector, device, dtype)
            continue
        nets = [networks[n].seen_by(detector).to(dtype) for n in some]
        try:
            found[name] = store.load(run.folder / "detectors" / name, nets).to(device)
        except store.OtherNetwork as error:
            raise ValueError(
                f"{name}: the network must be that of the run, got other weights. Those that the run trained are in "
                "its cache, which OODATTACK_CACHE names; else give the file its weights back."
            ) from error
    return found
