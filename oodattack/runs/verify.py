"""Is a report what its evidence says? Everything is computed again from the saved images, without the attacks' code.

Differences are lines of a table; files that cannot be read at all are errors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from oodattack.certificates import Certificates
from oodattack.data.overlap import digests, overlaps
from oodattack.identity import sha256_of_file, sha256_of_images, sha256_of_networks
from oodattack.numbers import eps_curves
from oodattack.report import Report, Result, read_report
from oodattack.report.record import in_words
from oodattack.runs.claims import of_bounds, of_box, of_cell, of_order
from oodattack.runs.evidence import Cell, Evidence, inside, read_evidence
from oodattack.runs.images import Inputs
from oodattack.runs.line import Line, open_question, told
from oodattack.runs.manifest import MANIFEST, files_in, read_manifest
from oodattack.runs.plan import Plan, read_plan
from oodattack.runs.rows import Afresh, of_scores, of_side
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, each_radius, limits_of, members_of, shares_queries

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
    evidence = read_evidence(folder)
    return Opened(folder, read_plan(folder), read_report(folder / "report.json"), evidence)


def of_run(run: Opened, detectors: Detectors, fingerprints: Mapping[str, str | None]) -> Iterator[Line]:
    """Everything but the hashes of the files.

    Args:
        run: the directory.
        detectors: by name, loaded afresh.
        fingerprints: of these, see `detectors.store`.
    """
    spec, plan = run.report.spec, run.plan
    yield of_index(run)
    yield from of_plan(run.report, plan)
    for name in detectors:
        yield told(f"{name}: fitted to", spec.fingerprints.get(name), fingerprints[name])
    threats = {name: dump.threat() for name, dump in plan.threats.items()}
    yield told("threats", sorted(spec.threats), sorted(t.name for t in threats.values()))
    for name, digest in spec.threats.items():
        known = name in threats and threats[name].name == name
        yield told(f"threat {name}", digest, plan.threats[name].sha256 if known else None)
    at_each_radius = {t.name: t for threat in threats.values() for t in each_radius(threat)}
    yield told("weights", spec.networks, sha256_of_networks(detectors))
    inputs = Inputs(run.folder, run.evidence, plan.job)
    yield from of_inputs(run, inputs)
    yield of_overlaps(run, inputs)
    afresh = Afresh({}, {}, {}, {})
    for name, detector in detectors.items():
        afresh.clean[name] = yield from of_scores(inputs, name, detector, plan.batch_size)
    yield from of_curves(run.report, [t for t in threats.values() if isinstance(t, Sweep)])
    yield from of_cells(run, list(threats.values()))
    certificates = Certificates()
    for result, cell in zip(run.report.results, run.evidence.cells, strict=False):
        yield from of_one(run, inputs, result, cell, at_each_radius, detectors, afresh)
        if plan.job.get("certify"):
            threat, detector = at_each_radius[result.threat], detectors[cell.detector]
            yield from of_bounds(inputs, result, cell, threat, detector, certificates)
        else:
            claimed = (result.certified_auroc, result.certified, result.uncertified)
            yield told(f"{result.where}: certified", claimed, (None, None, None))


def of_index(run: Opened) -> Line:
    """Whatever the index names has a hash: a link to elsewhere, or a folder that the manifest leaves out, has none."""
    index = run.evidence
    named = {file for files in index.inputs.values() for file in files}
    named |= {file for files in index.clean.values() for file in files.values()}
    named |= {file for cell in index.cells for side in cell.sides for file in side.shards}
    return told("files of evidence without a hash", [], sorted(named - {*read_manifest(run.folder)}))


def of_plan(report: Report, plan: Plan) -> Iterator[Line]:
    """What the report says of the run is what the plan says."""
    spec, asked = report.spec, plan.job
    for field in ("seed", "precision", "samples", "command"):
        yield told(field, getattr(spec, field), asked.get(field))
    yield told("ID set", spec.id.name, asked.get("id"))
    if spec.targets is not None:
        yield told("targets", spec.targets.name, f"{asked.get('id')} (reference)")
    planned = [place.removeprefix("ood/") for place in plan.data if place.startswith("ood/")]
    yield told("OOD sets", [source.name for source in spec.ood], planned)
    yield told("kind of device", *(str(device).partition(":")[0] for device in (spec.device, asked.get("device"))))
    fits = 1 <= spec.batch_size <= plan.batch_size  # it falls where memory runs out
    yield Line("batch size, at most", str(spec.batch_size), str(plan.batch_size), fits)
    yield told("versions", report.versions, plan.versions)
    yield told("detectors", ", ".join(spec.detectors), ", ".join(plan.detectors))
    yield told("fingerprints", spec.fingerprints, plan.detectors)


def of_inputs(run: Opened, inputs: Inputs) -> Iterator[Line]:
    """The images before any attack are those that the report names, and no others; so are the sets with scores."""
    spec = run.report.spec
    sources = [("id", spec.id), *([] if spec.targets is None else [("targets", spec.targets)])]
    sources += [(f"ood/{source.name}", source) for source in (*spec.ood, *spec.starts)]
    names = {name for name, _ in sources}
    yield told("sets of images", sorted(names), sorted(run.evidence.inputs))
    for name, of in run.evidence.clean.items():
        yield told(f"{name}: sets with scores", sorted(names - {"targets"}), sorted(of))
    for name, source in sources:
        found = "no such set"
        if name in run.evidence.inputs:
            n = inputs.count(name)
            found = f"{n} images {sha256_of_images(n, inputs.blocks(name))}"
            fits = all(bool(((x >= 0) & (x <= 1)).all()) for x in inputs.blocks(name))
            yield Line(f"images {name}: pixels", "in [0, 1]", "in [0, 1]" if fits else "outside", fits)
        yield told(f"images {name}", f"{source.n} images {source.sha256}", found)


def of_overlaps(run: Opened, inputs: Inputs) -> Line:
    """Images that two evaluated sets share; what networks and detectors have learnt from is not in the directory."""
    spec = run.report.spec
    places = {"id": "id"} | ({} if spec.targets is None else {"targets": "targets"})
    places |= {source.name: f"ood/{source.name}" for source in spec.ood}
    found = {name: set[bytes]().union(*map(digests, inputs.blocks(place))) for name, place in places.items()}
    claimed = [(o.first, o.second, o.images) for o in spec.overlaps if {o.first, o.second} <= {*found}]
    return told("images in common", claimed, overlaps(found))


def of_cells(run: Opened, threats: Sequence[Threat]) -> Iterator[Line]:
    """Each detector of the plan has a cell at each radius of each threat on each OOD set, unless that was skipped."""
    report, plan = run.report, run.plan
    claimed = [result.key for result in report.results]
    skipped = {one.key for one in report.skipped}
    sets = [name.removeprefix("ood/") for name in plan.data if name.startswith("ood/")]
    planned = []
    for judged in (judged for threat in threats for judged in each_radius(threat)):
        parts = [judged] if shares_queries(judged) else members_of(judged)  # a suite lasts while a member does
        start = limits_of(judged).start
        for ood in sets if start == "ood" else [start]:
            for name in plan.detectors:
                if not {(name, part.name, ood) for part in parts} <= skipped:
                    planned.append((name, judged.name, ood))
    for key in planned:
        if key not in claimed:
            yield Line(f"{in_words(key)}: cell", "none", "in the plan", False)
    yield told("cells", len(claimed), len(planned))
    yield told("cells with evidence", len(run.evidence.cells), len(planned))


def of_curves(report: Report, sweeps: Sequence[Sweep]) -> Iterator[Line]:
    """AUROC against eps is what the cells say."""
    sets = dict.fromkeys(result.ood for result in report.results)
    cells = {ood: [result for result in report.results if result.ood == ood] for ood in sets}
    again = {c.where: c for sweep in sweeps for ood in sets for c in eps_curves(sweep, cells[ood])}
    claimed = {curve.where: curve for curve in report.curves if curve.against == "eps"}
    yield told("curves against eps", sorted(claimed), sorted(again))
    for where in sorted(claimed.keys() & again.keys()):
        yield told(f"{where}: curve", claimed[where].model_dump(), again[where].model_dump())


def of_one(
    run: Opened,
    inputs: Inputs,
    result: Result,
    cell: Cell,
    threats: Mapping[str, ThreatModel | Suite],
    detectors: Detectors,
    afresh: Afresh,
) -> Iterator[Line]:
    """One cell: its rows, unless another cell had the same, and then every number that the report gives."""
    name, where = result.name, result.where
    yield told(f"{where}: cell", where, in_words(cell.key))
    if result.threat not in threats or name not in detectors:
        yield Line(f"{where}: plan", "known", "no such threat or detector in the plan", False)
        return
    threat = threats[result.threat]
    aimed = limits_of(threat).aim == "match"  # its targets are drawn by OOD set
    sides = {}
    for side in cell.sides:
        key = (name, result.threat, result.ood if aimed else "", side.images, *side.shards)
        if key not in afresh.sides:
            afresh.sides[key] = yield from of_side(
                where, inputs, side, threat, detectors[name], cell, seed=run.report.spec.seed, size=run.plan.batch_size
            )
        sides[side.images] = afresh.sides[key]
    yield from of_cell(where, inputs, result, cell, threat, afresh.before)
    if "whole_box" in result.model_fields_set:  # older reports know the shipped whole boxes alone
        yield of_box(inputs, result, cell, threats, afresh.boxes)
    clean, ood = afresh.clean[name], f"ood/{cell.ood}"
    if {"id", ood} <= clean.keys() and all(sides.values()):
        yield from of_order(where, result, (clean["id"], clean[ood]), sides.get("id"), sides.get(ood))
    else:
        yield open_question(f"{where}: auroc afresh", result.attacked.auroc, "the detector uses random numbers")
