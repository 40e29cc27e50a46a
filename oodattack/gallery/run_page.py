"""report.html beside report.json: the page of a run, with scores from its evidence and contact sheets."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from oodattack.gallery.maps import maps_of
from oodattack.gallery.saved import Function, rows_of, saved
from oodattack.report import Report
from oodattack.report.page import MOST_SHEETS, Sheet, page
from oodattack.report.record import Key
from oodattack.report.sheet import sheet_path
from oodattack.whole_file import write_file

PAGE = "report.html"
MOST_BYTES = 8 << 20  # of the contact sheets in a page
MOST_CELLS = 400  # whose rows are drawn


def write_page(folder: Path, detectors: Mapping[str, Function] | None = None) -> Path:
    """Write report.html into a run directory that has report.json and evidence.

    Args:
        folder: the run directory.
        detectors: of the run by name, for latents of matched images and saliency maps; else neither is drawn.

    Raises:
        ValueError: the run is not finished, or not as it was written.
    """
    run = saved(folder)
    run = run._replace(cells=run.cells[:MOST_CELLS])
    path = folder / PAGE
    text = page(run.report, rows_of(run, detectors), sheets_of(folder, run.report), maps_of(run, detectors))
    write_file(path, text.encode())
    return path


def sheets_of(folder: Path, report: Report) -> dict[Key, Sheet]:
    """The contact sheets of a run: evenly spaced ones as bytes, so that nobody picked them, the others as links."""
    there = [r for r in report.results if sheet_path(r, folder).is_file()]
    n = min(len(there), MOST_SHEETS)
    chosen = {round(i * (len(there) - 1) / max(n - 1, 1)) for i in range(n)}
    left, found = MOST_BYTES, {}
    for i, result in enumerate(there):
        path = sheet_path(result, folder)
        link = quote(path.relative_to(folder).as_posix())
        png = path.read_bytes() if i in chosen and path.stat().st_size <= left else None
        left -= len(png or b"")
        found[result.key] = Sheet(link, png)
    return found
