"""AUROC against the queries spent or the radius: one line a detector, with dashes and marks of its own."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from oodattack.report.charts import LEFT, RIGHT, STYLES, WIDTH, Axis, Frame, even, mark, stroke, svg, words
from oodattack.report.record import Curve

AUROC = Axis("AUROC", 0, 1, (0, 0.25, 0.5, 0.75, 1), form="{:.2g}")
MARKED = 9  # points of a line at most


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    below: Sequence[tuple[float, float]] | None = None  # certified: the truth is between


def queries_axis(most: float) -> Axis:
    """Queries on a logarithmic scale that begins at none."""
    ticks = [0, *(q for q in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000) if q <= most)]
    return Axis("queries (logarithmic)", 0, most, ticks, scale=lambda q: math.log2(1 + q))


def eps_axis(most: float) -> Axis:
    """Radii, evenly."""
    return Axis("eps", 0, most, even(0, most))


def line_chart(name: str, title: str, lines: Sequence[Line], x: Axis) -> Markup:
    """AUROC along an axis.

    Args:
        name: unique on the page.
        title: of the text alternative.
        lines: with points in order.
        x: the axis below.
    """
    frame = Frame(x, AUROC)
    _, chance = frame.place(0, 0.5)
    parts = [
        frame.axes(),
        Markup('<path class="chance" d="M{} {}H{}"/>').format(LEFT, chance, WIDTH - RIGHT),
        words(LEFT + 4, chance - 4, "chance"),
    ]
    for i, line in enumerate(lines):
        at = [frame.place(a, b) for a, b in line.points]
        if line.below:
            under = [frame.place(a, b) for a, b in line.below]
            edge = "L".join(f"{a:g} {b:g}" for a, b in [*at[: len(under)], *reversed(under)])
            parts.append(Markup('<path class="between s{}" d="M{}Z"/>').format(i % STYLES, edge))
        path = "L".join(f"{a:g} {b:g}" for a, b in at)
        parts.append(stroke(i, "M" + path))
        parts += [mark(i, *point) for point in thinned(at)]
    said = "; ".join(spoken(line) for line in lines)
    return svg(name, title, f"AUROC, first to last point. {said}.", parts)


def spoken(line: Line) -> str:
    """The ends of a line in words."""
    words = f"{line.name}: {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}"
    return words + (f", certified {line.below[-1][1]:.3f} at {line.below[-1][0]:g}" if line.below else "")


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A few of many points, first and last among them."""
    if len(points) <= MARKED:
        return list(points)
    return [points[round(i * (len(points) - 1) / (MARKED - 1))] for i in range(MARKED)]


def axis_of(curves: Sequence[Curve]) -> Axis:
    """The axis that some curves of a kind share."""
    most = max((x for c in curves for x, _ in c.points), default=0.0)
    return queries_axis(most) if curves[0].against == "queries" else eps_axis(most)
