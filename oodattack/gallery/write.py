"""`gallery`: contact sheets of the worst rows of every cell, and a page around them."""

import io
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import torch
from markupsafe import Markup
from torch import Tensor

from oodattack.gallery.judge import NEAR, Judge, nearest, pixel_judge
from oodattack.gallery.picked import Picked, picked
from oodattack.gallery.saved import Function, Saved, id_images, saved
from oodattack.report.page import read, render
from oodattack.report.page_words import MARK
from oodattack.report.sheet import Shown, contact_sheet, sheet_path
from oodattack.whole_file import write_file

FOLDER, PAGE = "gallery", "gallery.html"  # in the run directory
SHORT = {"far from ID": "far", "LOOKS LIKE ID": "LIKE ID!", "was near before": "near before"}


class Entry(NamedTuple):
    """One cell of the gallery.

    Attributes:
        rows: what is shown.
        said: the judge's opinion of each; None where ID images or the judge itself were attacked.
        judged: the judge's score of each before and after the attack; None likewise.
        away: distance to the nearest ID image, before and after.
        path: of the contact sheet, relative to the page.
    """

    rows: Picked
    said: list[str] | None
    judged: list[tuple[float, float]] | None
    away: list[tuple[float, float]]
    path: str


def gallery(
    folder: Path,
    *,
    worst: int = 8,
    class_: int | None = None,
    detectors: Mapping[str, Function] | None = None,
    logits: Mapping[str, Function] | None = None,
    judge: Judge | None = None,
    remark: str = "",
) -> Path:
    """Write DIR/gallery/gallery.html and contact sheets beside it; the same run gives the same bytes.

    Args:
        folder: the directory of a finished run.
        worst: rows per cell, those that score worst after the attack first.
        class_: only rows whose adversarial image is predicted to be of this class.
        detectors: of the run by name, for the scores of targets.
        logits: of their networks, by the detector's name, for predicted classes.
        judge: who says whether an image looks like an ID image; by default its distance to the nearest one.
        remark: for the top of the page.

    Returns:
        The page.

    Raises:
        ValueError: no finished run, or no row to show.
    """
    if worst < 1:
        raise ValueError(f"`worst` must be >= 1, got {worst}. Ask for a row at least.")
    run = saved(folder)
    x_id = id_images(run)
    judge = judge or pixel_judge(x_id)
    chosen = []
    for result, cell in run.cells:
        f, network = (detectors or {}).get(cell.detector), (logits or {}).get(cell.detector)
        rows = picked(run, result, cell, worst, class_, network, f)
        if rows is not None:
            chosen.append(rows)
    if not chosen:
        if logits:
            got, remedy = f"none predicted as class {class_}", "Leave --class out, or take another class."
        else:
            got, remedy = "detectors without a network, hence without classes", "Leave --class out."
        raise ValueError(f"{folder}: a gallery must have rows, got {got}. {remedy}")
    page = folder / FOLDER / PAGE
    shutil.rmtree(page.parent / "sheets", ignore_errors=True)  # of an earlier gallery, with other rows
    text = render(
        files("oodattack.gallery").joinpath("gallery.html.j2").read_text(encoding="utf-8"),
        report=run.report,
        style=Markup(read("page.css")),
        entries=[entry(run, rows, judge, x_id) for rows in chosen],
        judge=judge,
        near=NEAR,
        worst=worst,
        class_=class_,
        remark=remark,
        mark=MARK,
    )
    write_file(page, text.encode())
    return page


def entry(run: Saved, rows: Picked, judge: Judge, x_id: Tensor) -> Entry:
    """Judge the rows of a cell and draw its contact sheet."""
    away, which = nearest(rows.x_adv, x_id)
    asked = rows.side == "ood" and judge.is_independent(rows.result)
    scores = (judge.score(rows.start), judge.score(rows.x_adv)) if asked else None
    said = None if scores is None else judge.verdicts(*scores)
    k = len(rows.row)
    if rows.target is None:
        reference, known = x_id[which], reference_scores(run, rows, which)
    else:
        reference = rows.target
        known = torch.full((k,), torch.nan) if rows.target_scores is None else rows.target_scores
    shown = Shown(
        result=rows.result,
        reference=reference,
        start=rows.start,
        x_adv=rows.x_adv,
        reference_scores=known,
        start_scores=rows.start_scores,
        x_adv_scores=rows.x_adv_scores,
        mape=rows.mape,
        side=rows.side,
    )
    sheet = contact_sheet(shown, reference_name="nearest ID image", notes=dict(notes(rows, said)))
    place = run.folder / FOLDER
    path, data = sheet_path(rows.result, place), io.BytesIO()
    sheet.save(data, format="PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path.parent}: must be a folder to write in, got {error.strerror}. Check it.") from None
    write_file(path, data.getvalue())
    return Entry(
        rows,
        said,
        None if scores is None else pairs(*scores),
        pairs(nearest(rows.start, x_id)[0], away),
        quote(path.relative_to(place).as_posix()),
    )


def pairs(before: Tensor, after: Tensor) -> list[tuple[float, float]]:
    """Numbers of each row, before and after the attack."""
    return list(zip(before.tolist(), after.tolist(), strict=True))


def notes(rows: Picked, said: list[str] | None) -> Iterator[tuple[str, list[str]]]:
    """More lines of a contact sheet."""
    if rows.classes is not None:
        pairs = zip(*(c.tolist() for c in rows.classes), strict=True)
        yield "predicted class", [f"{a}, then {b}" for a, b in pairs]
    if said is not None:
        yield "judge", [SHORT[word] for word in said]


def reference_scores(run: Saved, rows: Picked, which: Tensor) -> Tensor:
    """Scores of the nearest ID images; those that are targets have none in the evidence."""
    known = run.inputs.clean(rows.result.name, "id")
    return torch.where(which < len(known), known[which.clamp(max=len(known) - 1)], torch.nan)
