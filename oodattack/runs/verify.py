"""Is a report what its evidence says? Everything is computed again from the saved images, without the attacks' code.

Differences are lines of a table; files that cannot be read at all are errors.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from oodattack.certificates import Certificates
from oodattack.identity import sha256_of_file, sha256_of_images
from oodattack.lookup import summary
from oodattack.report import Report, Result, Source, read_report
from oodattack.runs.claims import of_bounds, of_cell
from oodattack.runs.evidence import INDEX, Cell, Evidence, inside
from oodattack.runs.images import Inputs
from oodattack.runs.line import Line, told
from oodattack.runs.manifest import MANIFEST, files_in, read_manifest
from oodattack.runs.plan import Plan, read_plan
from oodattack.runs.rows import of_scores, of_side
from oodattack.threat import Suite, ThreatModel, each_radius

Detectors = Mapping[str, Callable[[Tensor], Tensor]]


class Opened(NamedTuple):
    """A finished run directory, read."""

    folder: Path
    plan: Plan
    report: Report
    evidence: Evidence


def of_files(folder: Path) -> Iterator[Line]:
    """The hash of every file, and that there are no others."""
    claimed = read_manifest(folder)
    found = set(files_in(folder))
    for name, digest in claimed.items():
        here = sha256_of_file(inside(folder, name)) if name in found else "no such file"
        if here != digest:
            yield Line(f"file {name}", digest, here, False)
    for name in sorted(found - set(claimed)):
        yield Line(f"file {name}", f"none in {MANIFEST}", "a file", False)
    yield told("files with the hash of the manifest", len(claimed), len(found))


def opened(folder: Path) -> Opened:
    """Read plan, report and index.

    Raises:
        ValueError: one of them is missing, or not as it was written.
    """
    path = folder / INDEX
    try:
        evidence = Evidence.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path}: a finished run must have evidence, got {error.strerror}. Check the folder."
        ) from None
    except ValidationError as error:
        raise ValueError(f"{path}: must be as it was written, got {summary(error)}. Run again.") from None
    return Opened(folder, read_plan(folder), read_report(folder / "report.json"), evidence)


def of_run(run: Opened, detectors: Detectors, fingerprints: Mapping[str, str | None]) -> Iterator[Line]:
    """Everything but the hashes of the files.

    Args:
        run: the directory.
        detectors: by name, loaded afresh.
        fingerprints: of these, see `detectors.store`.
    """
    spec, plan = run.report.spec, run.plan
    yield told("seed", spec.seed, plan.job.get("seed"))
    yield told("precision", spec.precision, plan.job.get("precision"))
    yield told("detectors", ", ".join(spec.detectors), ", ".join(detectors))
    for name in detectors:
        yield told(f"{name}: fitted to", spec.fingerprints.get(name), fingerprints[name])
    limits = {t.name: t for dump in plan.threats.values() for t in each_radius(dump.threat())}
    for name, digest in spec.threats.items():
        yield told(f"threat {name}", digest, plan.threats[name].sha256 if name in plan.threats else None)
    dtype = torch.float64 if plan.job.get("dtype") == "float64" else torch.float32
    inputs = Inputs(run.folder, run.evidence, dtype)
    yield from of_inputs(run, inputs)
    for name, detector in detectors.items():
        yield from of_scores(inputs, name, detector, plan.batch_size)
    yield told("cells", len(run.report.results), len(run.evidence.cells))
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    certificates = Certificates()
    for result, cell in zip(run.report.results, run.evidence.cells, strict=False):
        yield from of_one(run, inputs, result, cell, limits, detectors, seen)
        if result.certified_auroc is not None or result.certified is not None:
            yield from of_bounds(inputs, result, cell, limits[result.threat], detectors[cell.detector], certificates)


def of_inputs(run: Opened, inputs: Inputs) -> Iterator[Line]:
    """The images before any attack are those that the report names."""
    spec = run.report.spec
    sources: dict[str, Source | None] = {"id": spec.id, "targets": spec.targets}
    sources |= {f"ood/{source.name}": source for source in spec.ood}
    for name, source in sources.items():
        if source is not None:
            found = "no such set"
            if name in run.evidence.inputs:
                found = sha256_of_images(inputs.count(name), inputs.blocks(name))
            yield told(f"images {name}", source.sha256, found)


def of_one(
    run: Opened,
    inputs: Inputs,
    result: Result,
    cell: Cell,
    limits: Mapping[str, ThreatModel | Suite],
    detectors: Detectors,
    seen: set[tuple[str, str, tuple[str, ...]]],
) -> Iterator[Line]:
    """One cell: its rows, unless another cell had the same, and then every number that the report gives."""
    name = f"{result.detector}@{result.network}" if result.network else result.detector
    where = f"{name}, {result.threat} on {result.ood}"
    yield told(f"{where}: cell", where, f"{cell.detector}, {cell.threat} on {cell.ood}")
    if result.threat not in limits or name not in detectors:
        yield Line(f"{where}: plan", "known", "no such threat or detector in the plan", False)
        return
    threat = limits[result.threat]
    for side in cell.sides:
        key = (name, result.threat, tuple(side.shards))
        if key not in seen:
            seen.add(key)
            yield from of_side(
                where, inputs, side, threat, detectors[name], cell, seed=run.report.spec.seed, size=run.plan.batch_size
            )
    yield from of_cell(where, inputs, result, cell, threat)
