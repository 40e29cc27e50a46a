"""The rows of a cell that a gallery shows: those that score worst after the attack."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.gallery.saved import Function, Saved, column, computed, pool_of
from oodattack.report import Result
from oodattack.runs.evidence import ROWS_A_FILE, Cell, Side


class Picked(NamedTuple):
    """A few rows of one cell. Images (k, C, H, W), the rest (k,).

    Attributes:
        result: the cell's record.
        side: "ood" or "id", the set that was attacked.
        row: numbers in that set.
        target: the ID image that was to be matched, or None.
        target_scores: of these; None where nobody can tell.
        start: images before the attack.
        x_adv: after it.
        start_scores: as saved.
        x_adv_scores: as saved.
        distance: in the threat's norm.
        mape: for matching, or None.
        classes: predicted before and after, or None without a network.
    """

    result: Result
    side: str
    row: Tensor
    target: Tensor | None
    target_scores: Tensor | None
    start: Tensor
    x_adv: Tensor
    start_scores: Tensor
    x_adv_scores: Tensor
    distance: Tensor
    mape: Tensor | None
    classes: tuple[Tensor, Tensor] | None


def picked(
    run: Saved, result: Result, cell: Cell, worst: int, class_: int | None, logits: Function | None, f: Function | None
) -> Picked | None:
    """The rows of one cell, worst first; None where there are none.

    Args:
        run: the run.
        result: the cell's record.
        cell: its evidence.
        worst: how many rows.
        class_: only those whose adversarial image is predicted to be of this class.
        logits: of the cell's network, if it has one.
        f: the detector, for the scores of targets.
    """
    side = next((s for s in cell.sides if s.images != "id"), cell.sides[0])
    kind = "id" if side.images == "id" else "ood"
    order = (column(run, side, "scores") * (-1 if kind == "id" else 1)).argsort(stable=True)
    if class_ is not None:
        if logits is None:
            return None
        predicted = torch.cat([classes(logits, run.inputs.tensors(file)["x_adv"]) for file in side.shards])
        order = order[predicted[order] == class_]
    rows = order[:worst]
    if not len(rows):
        return None
    saved = these(run, side, rows)
    start = run.inputs.rows(side.images, rows)
    target = target_scores = None
    if "target" in saved:
        pool = pool_of(run, cell)
        target = run.inputs.rows(pool, saved["target"])
        if pool == "id":
            target_scores = run.inputs.clean(cell.detector, "id")[saved["target"]]
        elif f is not None:
            target_scores = computed(f, target, run.inputs.device)
    return Picked(
        result=result,
        side=kind,
        row=rows,
        target=target,
        target_scores=target_scores,
        start=start,
        x_adv=saved["x_adv"],
        start_scores=saved["clean"],
        x_adv_scores=saved["scores"],
        distance=saved["distance"],
        mape=saved.get("mape") if target is not None else None,
        classes=None if logits is None else (classes(logits, start), classes(logits, saved["x_adv"])),
    )


def these(run: Saved, side: Side, rows: Tensor) -> dict[str, Tensor]:
    """Everything that is saved of some rows of a side, in their order."""
    part, place = rows.div(ROWS_A_FILE, rounding_mode="floor"), rows % ROWS_A_FILE
    files = {i: run.inputs.tensors(side.shards[i]) for i in part.unique().tolist()}
    pairs = list(zip(part.tolist(), place.tolist(), strict=True))
    return {name: torch.stack([files[i][name][j] for i, j in pairs]) for name in files[pairs[0][0]]}


def classes(logits: Callable[[Tensor], Tensor], x: Tensor, at_once: int = 256) -> Tensor:
    """Predicted classes, shape (B,)."""
    return torch.cat([computed(logits, block, x.device).argmax(dim=1) for block in x.split(at_once)])
