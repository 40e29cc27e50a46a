"""A job and its plan: what is written down before a run, and compared when it goes on."""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from oodattack.data.disk import blocks
from oodattack.detector import Detector
from oodattack.detectors.store import fingerprint
from oodattack.identity import sha256_of_each, sha256_of_file, sha256_of_images, versions
from oodattack.job.ask import Job
from oodattack.job.images import Loaded
from oodattack.lookup import summary
from oodattack.models import by_user_code
from oodattack.runs.plan import Plan, dump
from oodattack.threat import Threat, members_of


def plan_of(
    job: Job, threats: Sequence[Threat], images: Loaded, detectors: Mapping[str, Detector], batch_size: int
) -> Plan:
    """The plan of a job whose images are loaded and whose detectors are fitted."""
    return Plan(
        job=TypeAdapter(Job).dump_python(job, mode="json"),
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        threats={t.name: dump(t) for t in threats},
        files=files_of(job) | attack_files(threats),
        data=data_of(images),
        detectors={name: fingerprint(d) for name, d in detectors.items()},
        networks=sha256_of_each(detectors),
        versions=versions(),
    )


def job_of(plan: Plan) -> Job:
    """The job that a plan is of.

    Raises:
        ValueError: it is none that this version knows.
    """
    try:
        return TypeAdapter(Job).validate_python(plan.job)
    except ValidationError as error:
        raise ValueError(
            f"`job` must have the options of this version, got {summary(error)}. Start a new run."
        ) from None


def checked_before(then: Plan, job: Job, threats: Sequence[Threat], folder: Path) -> None:
    """Raise ValueError if versions, files or threats have changed: what can be seen before anything is loaded."""
    here = {t.name: dump(t).model_dump(mode="json") for t in threats}
    then.check({"versions": versions(), "files": files_of(job) | attack_files(threats), "threats": here}, folder)


def checked_now(then: Plan, now: Plan, folder: Path) -> None:
    """Raise ValueError if data or detectors have changed."""
    then.check({"data": now.data, "detectors": now.detectors, "networks": now.networks}, folder)


def data_of(images: Loaded) -> dict[str, str]:
    """Set -> number of images and SHA-256."""
    sets: dict[str, Tensor] = {"id": images.id.x}
    if images.targets is not None:
        sets["targets"] = images.targets.x
    sets |= {f"ood/{i.name}": i.x for i in images.ood} | {f"start/{name}": x for name, x in images.starts.items()}
    return {name: f"{len(x)} images {sha256_of_images(len(x), blocks(x))}" for name, x in sets.items()}


def attack_files(threats: Sequence[Threat]) -> dict[str, str]:
    """The modules of attacks in user code -> SHA-256 of the file."""
    words = {m.attack for threat in threats for m in members_of(threat) if m.by_user_code}
    return {word: sha256_of_file(path) for word in sorted(words) if (path := module_file(word)) is not None}


def files_of(job: Job) -> dict[str, str]:
    """Weights and the modules of user code, but for attacks -> SHA-256 of the file."""
    model = job.model if job.model and by_user_code(job.model) else None
    words: list[Any] = [*job.detectors, model, job.id, *job.ood, job.fit, job.id_validation, job.ood_validation]
    code = {word: path for word in words if (path := module_file(word)) is not None}
    files = {str(path): path for path in job.weights} | code
    return {name: sha256_of_file(path) for name, path in files.items()}


def module_file(word: str | None) -> Path | None:
    """The file behind `pkg.mod:name`; None for what is no such word, or has no file."""
    module, _, attribute = (word or "").partition(":")
    if not attribute or not all(part.isidentifier() for part in [*module.split("."), attribute]):
        return None
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # whatever the packages above it do; importing it will tell
        return None
    path = Path(spec.origin) if spec and spec.origin else None
    return path if path and path.is_file() else None
