"""The report as a page: one HTML file that needs no network, for a screen, a phone and paper."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup

from oodattack.report import charts_rows
from oodattack.report.charts import swatch
from oodattack.report.charts_lines import Line, axis_of, line_chart
from oodattack.report.page_maps import Maps, maps_png, maps_words
from oodattack.report.page_words import MARK, headlines, metrics_rows, sanity
from oodattack.report.record import Curve, Key, Report, Result

MOST_SHEETS = 24  # that are part of the page; others are links


class Rows(NamedTuple):
    """What a run directory knows of the rows of a cell.

    Attributes:
        before: scores of ID and OOD rows before the attack.
        after: after it; those of a side that was left alone are the clean ones.
        mape: of matched rows.
        z: values of latents of targets, and of the adversarial images at the same places.
    """

    before: tuple[Sequence[float], Sequence[float]]
    after: tuple[Sequence[float], Sequence[float]]
    mape: Sequence[float] | None = None
    z: tuple[Sequence[float], Sequence[float]] | None = None


class Sheet(NamedTuple):
    """A contact sheet: its path relative to the page, and the PNG if it is to be part of it."""

    path: str
    png: bytes | None = None


class Figure(NamedTuple):
    """A chart with a legend and the numbers behind it; `folded` where one against eps says the same."""

    title: str
    note: str
    drawing: Markup
    lines: list[tuple[Markup, Line]]
    folded: bool


def page(
    report: Report,
    rows: Mapping[Key, Rows] | None = None,
    sheets: Mapping[Key, Sheet] | None = None,
    maps: Mapping[Key, Maps] | None = None,
) -> str:
    """The page of a report; the same arguments give the same text.

    Args:
        report: any.
        rows: scores of rows, for the cells where they are known.
        sheets: contact sheets, for the cells that have one.
        maps: saliency maps, for the cells that have some.
    """
    script = read("page.js")
    return render(
        read("page.html.j2"),
        report=report,
        style=Markup(read("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headlines=headlines(report),
        sanity=sanity(report),
        figures=figures(report.curves),
        cells=[(r, drawings(i, r, (rows or {}).get(r.key))) for i, r in enumerate(report.results)],
        sheets={k: (s, data_uri(s.png)) for k, s in (sheets or {}).items()},
        maps={k: (maps_words(m), data_uri(maps_png(m))) for k, m in (maps or {}).items()},
        certified=any(r.certified_auroc is not None for r in report.results),
        matched=any(r.mape is not None for r in report.results),
        mark=MARK,
        metrics=metrics_rows,
    )


def render(template: str, **fields: object) -> str:
    """Fill in a template; every text that is not markup is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(fields) + "\n"


def read(name: str) -> str:
    """A file that the page is made of."""
    return files("oodattack.report").joinpath(name).read_text(encoding="utf-8")


def figures(curves: Sequence[Curve]) -> list[Figure]:
    """A chart for each threat and OOD set."""
    swept = {c.threat for c in curves if c.against == "eps"}
    found = []
    for i, (against, threat, ood) in enumerate(dict.fromkeys((c.against, c.threat, c.ood) for c in curves)):
        mine = [c for c in curves if (c.against, c.threat, c.ood) == (against, threat, ood) and c.points]
        if not mine:
            continue
        lines = [Line(curve_name(c), c.points, c.certified) for c in mine]
        title = f"AUROC against {against}: {threat} on {ood}"
        stars = "" if all(c.exact for c in mine) else "Lines with a star: AUROC of the surrogate that was searched on."
        shade = "Shaded: between what is certified and what the attack left." if any(c.certified for c in mine) else ""
        note = " ".join(part for part in (stars, shade) if part)
        drawing = line_chart(f"curve-{i}", title, lines, axis_of(mine))
        legend = [(swatch(j), line) for j, line in enumerate(lines)]
        found.append(Figure(title, note, drawing, legend, mine[0].sweep in swept))
    return found


def curve_name(curve: Curve) -> str:
    """A line of a legend."""
    radius = "" if curve.eps50 is None else f", 0.5 left at eps {curve.eps50:.3g}"
    return curve.name + ("" if curve.exact else " *") + radius


def drawings(i: int, result: Result, rows: Rows | None) -> list[tuple[str, Markup]]:
    """What can be drawn of one cell, each with a caption."""
    if rows is None:
        return []
    caption = "Scores of ID (filled) and OOD images (outlined)"
    found = [(caption, charts_rows.score_histograms(f"s-{i}", rows.before, rows.after, result.deployed.threshold))]
    if rows.mape:
        found.append(("MAPE, row by row", charts_rows.mape_histogram(f"m-{i}", rows.mape)))
    if rows.z and rows.z[0]:
        found.append(("z_in against z_out", charts_rows.latent_scatter(f"z-{i}", *rows.z)))
    return found


def data_uri(png: bytes | None) -> str | None:
    """A picture as part of the page."""
    return None if png is None else "data:image/png;base64," + base64.b64encode(png).decode()
