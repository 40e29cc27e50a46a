"""What single rows say: histograms of scores and MAPE, and latents of targets against those of adversarial images."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from oodattack.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Frame, even, joined, mark, svg

BINS = 30
TAIL = 0.01  # share of values at either end that the last bins take together
MIDDLE = (HEIGHT - BOTTOM + TOP) / 2


def score_histograms(
    name: str,
    before: tuple[Sequence[float], Sequence[float]],
    after: tuple[Sequence[float], Sequence[float]],
    threshold: float,
) -> Markup:
    """Scores of ID (filled) and OOD (outlined) rows, clean above attacked, on one axis.

    Args:
        name: unique on the page.
        before: scores of ID and OOD rows before the attack.
        after: after it.
        threshold: set on clean ID scores, shown as a line.
    """
    low, high = ends([v for side in (*before, *after) for v in side])
    x = Axis("score (higher: more OOD)", low, high, even(low, high, 4))
    parts, said = [], []
    shares = [[shares_of(side, low, high) for side in pair] for pair in (before, after)]
    most = max(max(bins) for pair in shares for bins in pair)
    for word, pair, rows, top, bottom in (
        ("clean", shares[0], before, TOP, MIDDLE - 8),
        ("attacked", shares[1], after, MIDDLE + 8, HEIGHT - BOTTOM),
    ):
        frame = Frame(x, Axis(word, 0, most, ()), top, bottom)
        parts += [
            frame.axes(numbers_below=word == "attacked"),
            _bars(frame, pair[0], "id"),
            _bars(frame, pair[1], "ood"),
        ]
        if math.isfinite(threshold):
            at, _ = frame.place(threshold, 0)
            parts.append(Markup('<path class="chance" d="M{} {:g}V{:g}"/>').format(at, top, bottom))
        said.append(f"{word}: median ID score {middle(rows[0]):.4g}, median OOD score {middle(rows[1]):.4g}")
    description = f"{'; '.join(said)}. The dashed line is the threshold for 95 % ID TPR, {threshold:.4g}."
    return svg(name, "Histogram of scores, clean above attacked", description, parts)


def mape_histogram(name: str, values: Sequence[float]) -> Markup:
    """MAPE of rows in percent."""
    percent = [100 * v for v in values]
    _, high = ends(percent)
    high = high if high > 0 else 1.0
    bins = shares_of(percent, 0, high)
    y = Axis("share of rows", 0, max(bins), even(0, max(bins), 3), form="{:.2g}")
    frame = Frame(Axis("MAPE, % of the largest |z_in|", 0, high, even(0, high)), y)
    said = f"Median {middle(percent):.3g} %, largest {max(percent):.3g} %, of {len(percent)} rows."
    return svg(name, "Histogram of MAPE", said, [frame.axes(), _bars(frame, bins, "id")])


def latent_scatter(name: str, z_in: Sequence[float], z_out: Sequence[float]) -> Markup:
    """z of the adversarial image against z of its target, with the diagonal on which they agree."""
    pairs = [(i, o) for i, o in zip(z_in, z_out, strict=True) if math.isfinite(i) and math.isfinite(o)] or [(0.0, 0.0)]
    low, high = min(map(min, pairs)), max(map(max, pairs))
    x = Axis("z_in, of the target", low, high, even(low, high))
    frame = Frame(x, x._replace(label="z_out, of the adversarial image"))
    (a, b), (c, d) = frame.place(low, low), frame.place(high, high)
    diagonal = Markup('<path class="chance" d="M{} {}L{} {}"/>').format(a, b, c, d)
    points = joined(mark(0, *frame.place(i, o)) for i, o in pairs)
    off = sum(abs(i - o) for i, o in pairs) / len(pairs)
    said = f"{len(pairs)} values; they lie on the diagonal where the match is perfect; mean distance {off:.3g}."
    group = Markup('<g class="faint">{}</g>').format(points)
    title = "Latent of the adversarial image against that of its target"
    return svg(name, title, said, [frame.axes(), diagonal, group])


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Between which values the axis goes: all but the tails."""
    some = sorted(v for v in values if math.isfinite(v)) or [0.0]
    cut = int(TAIL * len(some))
    low, high = some[cut], some[-1 - cut]
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def shares_of(values: Sequence[float], low: float, high: float) -> list[float]:
    """Share of values a bin; what is beyond an end is in its last bin."""
    counts = [0] * BINS
    for v in values:
        place = 0.0 if math.isnan(v) else (min(max(v, low), high) - low) / (high - low)
        counts[min(int(place * BINS), BINS - 1)] += 1
    return [c / max(len(values), 1) for c in counts]


def middle(values: Sequence[float]) -> float:
    """Lower median."""
    return sorted(values)[(len(values) - 1) // 2] if values else math.nan


def _bars(frame: Frame, shares: Sequence[float], kind: str) -> Markup:
    """A histogram as one path."""
    wide = (WIDTH - LEFT - RIGHT) / len(shares)
    path = f"M{LEFT} {frame.bottom:g}"
    for i, share in enumerate(shares):
        _, y = frame.place(0, share)
        path += f"V{y:g}H{round(LEFT + (i + 1) * wide, 1):g}"
    return Markup('<path class="bars {}" d="{}V{:g}z"/>').format(kind, path, frame.bottom)
