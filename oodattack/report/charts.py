"""Charts as SVG text: frames, axes and marks that neither need a network nor rely on colour alone.

The same numbers give the same text. Colours are classes (`s0` to `s7`), which the page defines for light and dark.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 440, 280  # in units of the drawing: about a pixel on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 42
STYLES = 8  # colours, dashes and marks; each round pairs them otherwise
MARKS = (  # a sign around (0, 0) for each style
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "M-3-3h6v6h-6z", "M0-4l4 7h-8z", "M0-4l4 4-4 4-4-4z",
    "M-3-3l6 6M3-3l-6 6", "M-4 0h8M0-4v8", "M0 4l4-7h-8z", "M-4-1h8v2h-8z",
)  # fmt: skip
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2 1 2", "1 4", "14 3 3 3")


class Axis(NamedTuple):
    """One axis.

    Attributes:
        label: what it shows.
        low: value at its beginning.
        high: value at its end.
        ticks: values with a number.
        scale: increasing function of the values along which the axis is even.
        form: how a number is written.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    scale: Callable[[float], float] = float
    form: str = "{:g}"

    def at(self, value: float) -> float:
        """Where a value is, 0 to 1; what is beyond an end is at the end."""
        low, high, here = (self.scale(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return (here - low) / (high - low) if high > low else 0.5


class Frame(NamedTuple):
    """Two axes and the part of the drawing between them."""

    x: Axis
    y: Axis
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of a point."""
        across = LEFT + self.x.at(x) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(self.bottom - self.y.at(y) * (self.bottom - self.top), 1)

    def axes(self, *, numbers_below: bool = True) -> Markup:
        """Grid, numbers and labels."""
        parts = []
        for value in self.y.ticks:
            _, y = self.place(self.x.low, value)
            parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
            parts.append(words(LEFT - 5, y + 4, self.y.form.format(value), "end"))
        for value in self.x.ticks if numbers_below else ():
            x, _ = self.place(value, self.y.low)
            parts.append(Markup('<path class="grid" d="M{} {}V{}"/>').format(x, self.bottom, self.bottom + 4))
            parts.append(words(x, self.bottom + 17, self.x.form.format(value), "middle"))
        if numbers_below:
            parts.append(words((LEFT + WIDTH - RIGHT) / 2, self.bottom + 34, self.x.label, "middle"))
        middle = (self.top + self.bottom) / 2
        turned = Markup('<text class="label" text-anchor="middle" transform="translate(11 {:g}) rotate(-90)">{}</text>')
        return joined([*parts, turned.format(middle, self.y.label)])


def svg(name: str, title: str, description: str, parts: Iterable[Markup]) -> Markup:
    """A drawing with its text alternative; `name` is unique on the page."""
    head = Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d"><title id="{n}-t">{t}</title>'
        '<desc id="{n}-d">{d}</desc>'
    ).format(w=WIDTH, h=HEIGHT, n=name, t=title, d=description)
    return head + joined(parts) + Markup("</svg>")


def words(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    """A line of text."""
    return Markup('<text x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(round(x, 1), round(y, 1), anchor, text)


def mark(style: int, x: float, y: float) -> Markup:
    """The sign of a style."""
    sign = MARKS[(style + 3 * (style // STYLES)) % STYLES]
    return Markup('<path class="mark s{}" transform="translate({:g} {:g})" d="{}"/>').format(style % STYLES, x, y, sign)


def stroke(style: int, path: str) -> Markup:
    """A line of a style."""
    dash = DASHES[(style + style // STYLES) % STYLES]
    return Markup('<path class="line s{}" stroke-dasharray="{}" d="{}"/>').format(style % STYLES, dash, path)


def swatch(style: int) -> Markup:
    """A line of a style with its sign, for a legend."""
    head = Markup('<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true">')
    return head + stroke(style, "M0 7H34") + mark(style, 17, 7) + Markup("</svg>")


def even(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two values, about that many."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    digits = 12 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def joined(parts: Iterable[Markup]) -> Markup:
    """Pieces of a drawing after one another."""
    return Markup("").join(parts)
