"""What a run directory knows of the rows of its cells."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.report import Report, Result, read_report
from oodattack.report.page import Rows
from oodattack.report.record import Key
from oodattack.runs.evidence import INDEX, Cell, Side, read_evidence
from oodattack.runs.images import Inputs
from oodattack.runs.plan import read_plan
from oodattack.threat import Suite, ThreatModel, each_radius, limits_of

Function = Callable[[Tensor], Tensor]
POINTS = 400  # of a scatter plot
MATCHED_ROWS = 32  # rows whose latents are computed for it


class Saved(NamedTuple):
    """A finished run, read.

    Attributes:
        folder: the run directory.
        report: of it.
        inputs: the images and scores before any attack.
        threats: by name, each radius of a sweep too.
        cells: what is known of each cell, in the order of the report.
        batch_size: of the run.
    """

    folder: Path
    report: Report
    inputs: Inputs
    threats: Mapping[str, ThreatModel | Suite]
    cells: list[tuple[Result, Cell]]
    batch_size: int


def saved(folder: Path) -> Saved:
    """Read report, plan and index of evidence.

    Raises:
        ValueError: one of them is missing, or not as it was written.
    """
    evidence = read_evidence(folder)
    report, plan = read_report(folder / "report.json"), read_plan(folder)
    index = {c.key: c for c in evidence.cells}
    try:
        cells = [(r, index[r.key]) for r in report.results]
    except KeyError as error:
        raise ValueError(
            f"{folder / INDEX}: must have every cell of the report, got none for {error}. Run again."
        ) from None
    return Saved(
        folder=folder,
        report=report,
        inputs=Inputs(folder, evidence, plan.job),
        threats={t.name: t for dump in plan.threats.values() for t in each_radius(dump.threat())},
        cells=cells,
        batch_size=plan.batch_size,
    )


def id_images(run: Saved) -> Tensor:
    """The evaluated ID images, and after them those that were targets."""
    names = [name for name in ("id", "targets") if name in run.inputs.evidence.inputs]
    return torch.cat([block for name in names for block in run.inputs.blocks(name)])


def rows_of(run: Saved, detectors: Mapping[str, Function] | None = None) -> dict[Key, Rows]:
    """Scores of the rows of every cell, and latents where the detectors are at hand.

    Args:
        run: the run.
        detectors: by name, for the latents of matched images; without them there are none.
    """
    found: dict[Key, Rows] = {}
    for result, cell in run.cells:
        sides = {side.images: side for side in cell.sides}
        ood, clean = f"ood/{cell.ood}", run.inputs.clean
        before = clean(cell.detector, "id"), clean(cell.detector, ood)
        after = [
            column(run, sides[name], "scores") if name in sides else scores
            for name, scores in zip(("id", ood), before, strict=True)
        ]
        mape = column(run, sides[ood], "mape") if ood in sides and result.mape is not None else None
        f = (detectors or {}).get(cell.detector)
        found[result.key] = Rows(
            before=(before[0].tolist(), before[1].tolist()),
            after=(after[0].tolist(), after[1].tolist()),
            mape=None if mape is None else mape.tolist(),
            z=latents(run, cell, sides[ood], f) if f is not None and mape is not None else None,
        )
    return found


def column(run: Saved, side: Side, field: str) -> Tensor:
    """One number a row, of all rows of a side."""
    return torch.cat([run.inputs.tensors(file)[field] for file in side.shards])


def pool_of(run: Saved, cell: Cell) -> str:
    """The set that the targets of a matching cell are from."""
    return "id" if limits_of(run.threats[cell.threat]).paired else "targets"


def latents(run: Saved, cell: Cell, side: Side, f: Function) -> tuple[list[float], list[float]] | None:
    """z of some targets, and of the images that were to match them, at evenly spaced places."""
    limits = limits_of(run.threats[cell.threat])
    encoder = f if limits.match == "score" else getattr(f, "latent", None)
    shard = run.inputs.tensors(side.shards[0])
    if encoder is None or "target" not in shard:
        return None
    some = evenly(len(shard["row"]), MATCHED_ROWS)
    z_in = computed(encoder, run.inputs.rows(pool_of(run, cell), shard["target"][some]), run.inputs.device).flatten()
    z_out = computed(encoder, shard["x_adv"][some], run.inputs.device).flatten()
    places = evenly(len(z_in), POINTS)
    return z_in[places].tolist(), z_out[places].tolist()


def computed(f: Function, x: Tensor, device: torch.device) -> Tensor:
    """f of a few images, on the CPU; see `scores_of`."""
    from oodattack.runs.rows import scores_of

    return scores_of(f, x, len(x), device)
