"""The report as tables in the terminal: one per OOD set, detectors down, threats across."""

import math
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from oodattack.report.record import Metrics, Report, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MARK = {"broken": "[red]✗[/]", "holds": "[green]✓[/]", "inconclusive": "[yellow]?[/]"}
PLAIN = str.maketrans("✗✓", "x+")  # for encodings without these signs
TIED = 0.5  # share of pairs of images: honest scores of classes or votes tie on a few
FEW = 10  # images a side: of fewer, AUROC moves in steps of a hundredth and more
ROUNDING = 0.05  # AUROC
STEPS = 32  # of 1/255: radii in l2 are larger
WIDE = 100  # columns below which intervals are left out
T = TypeVar("T")


def show(report: Report, console: "Console | None" = None) -> None:
    """Print all tables and the notes below them."""
    from rich.console import Console

    console = console or Console(file=sys.stdout)
    marks, swept = marks_of(console), report.swept
    single = [r for r in report.results if r.sweep not in swept]
    for ood in dict.fromkeys(r.ood for r in single):
        mine = [r for r in single if r.ood == ood]
        console.print(table(report, mine, intervals=console.width >= WIDE, marks=marks))
    for threat, ood in dict.fromkeys((c.threat, c.ood) for c in report.curves if c.against == "eps"):
        console.print(sweep(report, threat, ood))
    console.print("AUROC, OOD positive" + (", 95 % interval" if console.width >= WIDE else "") + ".  " + legend(marks))
    for note in notes(report):
        console.print(f"[dim]-[/] {note}", highlight=False, soft_wrap=False)


def marks_of(console: "Console") -> Mapping[str, str]:
    """Verdict -> mark, in signs that the console can write: what it lacks comes out as "?", which is a mark itself."""
    try:
        "".join(MARK.values()).encode(console.encoding)
    except UnicodeEncodeError:
        return {verdict: mark.translate(PLAIN) for verdict, mark in MARK.items()}
    return MARK


def table(report: Report, results: list[Result], *, intervals: bool, marks: Mapping[str, str]) -> "Table":
    """The table of one OOD set, from its records."""
    from rich.markup import escape
    from rich.table import Table

    ood = results[0].ood
    threats = list(dict.fromkeys(r.threat for r in results))
    n = results[0].clean
    title = f"{n.n_id} {report.spec.id.name} (ID) against {n.n_ood} {ood} (OOD)"
    out = Table(title=escape(title), title_justify="left")
    out.add_column("detector@network", no_wrap=True)
    out.add_column("clean", justify="right")
    for threat in threats:
        out.add_column(escape(threat), justify="right")
    for name in dict.fromkeys(r.name for r in results):
        mine = {r.threat: r for r in results if r.name == name}
        cells = [cell(mine.get(threat), intervals=intervals, marks=marks) for threat in threats]
        clean = next(iter(mine.values())).clean
        out.add_row(escape(name), auroc(clean, intervals=intervals), *cells)
    return out


def sweep(report: Report, threat: str, ood: str) -> "Table":
    """AUROC against eps: a row a detector, with the radius that leaves 0.5."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(title=escape(f"AUROC against eps: {threat} on {ood}"), title_justify="left")
    out.add_column("detector@network", no_wrap=True)
    out.add_column("eps50", justify="right", no_wrap=True)
    out.add_column("eps: AUROC")
    for c in report.curves:
        if (c.threat, c.ood, c.against) == (threat, ood, "eps"):
            left = ",  ".join(f"{radius(eps)}:\u00a0{auroc:.3f}" for eps, auroc in c.points)
            out.add_row(escape(c.name), "-" if c.eps50 is None else f"{c.eps50:.3g}", left)
    return out


def radius(eps: float) -> str:
    """2/255 where that is what a small radius is, else the number."""
    steps = round(255 * eps)
    return f"{steps}/255" if 0 < steps <= STEPS and math.isclose(255 * eps, steps) else f"{eps:.3g}"


def auroc(m: Metrics, *, intervals: bool) -> str:
    """0.97, or 0.97 [.95 .99]."""
    return f"{m.auroc:.3f}" + (f" [dim]{bound(m.auroc_low)}-{bound(m.auroc_high)}[/]" if intervals else "")


def bound(value: float) -> str:
    """.95, or 1.0."""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"


def cell(result: Result | None, *, intervals: bool, marks: Mapping[str, str] = MARK) -> str:
    """AUROC left, verdict mark and, where there is one, certified AUROC, median MAPE or distance to the threshold."""
    if result is None:
        return "[dim]-[/]"
    text = f"{auroc(result.attacked, intervals=intervals)} {marks[result.verdict]}"
    if result.certified_auroc is not None:
        text += f"\n[dim]certified {result.certified_auroc:.3f}[/]"
    if result.crossing:
        at = "none" if result.crossing.median is None else f"{result.crossing.median:.3g}"
        text += f"\n[dim]distance {at}[/]"
    return text + (f"\n[dim]MAPE {100 * result.mape.median:.2g} %[/]" if result.mape else "")


def legend(marks: Mapping[str, str]) -> str:
    """What the marks mean."""
    return "  ".join(f"{mark} {verdict}" for verdict, mark in marks.items()) + "  [dim]-[/] does not apply"


def unsteady(report: Report) -> Iterable[str]:
    """Detectors whose numbers would be others in another call, of clean images too."""
    from rich.markup import escape

    for field, why in (
        ("row_independent", "the score of a row depends on its batch, and so do its numbers, clean ones too"),
        ("repeatable", "the score changes from call to call, and so do its numbers"),
    ):
        names = dict.fromkeys(r.name for r in report.results if r.indicators.get(field) is False)
        if names:
            yield escape(f"{', '.join(names)}: {why}. Is a network in training mode?")


def few(report: Report) -> Iterable[str]:
    """Sets of so few images that neither AUROC nor its interval says much."""
    from rich.markup import escape

    ids = ((report.spec.id.name, r.clean.n_id) for r in report.results)
    for which, n in dict.fromkeys([*ids, *((r.ood, r.clean.n_ood) for r in report.results)]):
        if n < FEW:
            many = "1 image says" if n == 1 else f"{n} images say"
            yield escape(f"Warning: {many} little of {which}, verdicts and intervals included. Take {FEW} at least.")


def moved(report: Report) -> Iterable[str]:
    """Threats that leave the OOD images alone, or do not stop at them."""
    from rich.markup import escape

    moves = {"raise": "raises ID images, and leaves OOD images as they are", "both": "moves images of both sides"}
    sides = ((moves[r.direction], r.threat) for r in report.results if r.direction in moves)
    for words, names in together(sides).items():
        yield escape(f"{names}: {words}.")


def rounded(report: Report) -> Iterable[str]:
    """Attacked AUROCs that are others once the images are rounded to 8 bits, as a file would hold them."""
    from rich.markup import escape

    for r in report.results:
        if abs(r.attacked_8bit.auroc - r.attacked.auroc) >= ROUNDING:
            left = f"{r.attacked.auroc:.3f} is left, of the same images rounded to 8 bits {r.attacked_8bit.auroc:.3f}"
            yield escape(f"{r.name} under {r.threat} on {r.ood}: {left}.")


def tied(report: Report) -> Iterable[str]:
    """Detectors that score images of both kinds alike before any attack, whose AUROC says little."""
    from rich.markup import escape

    shares = {f"{r.name} on {r.ood}": r.clean.ties for r in report.results if r.clean.ties >= TIED}
    for which, share in shares.items():
        yield escape(f"{which}: {share:.0%} of ID-OOD pairs score alike. Is it constant, or saturated?")


def notes(report: Report) -> Iterable[str]:
    """Sets that share images, detectors that tell nothing apart, surrogates, cells without an answer or not run."""
    from rich.markup import escape

    for shared in report.spec.overlaps:
        many = "1 image is" if shared.images == 1 else f"{shared.images} images are"
        yield escape(f"Warning: {many} both in {shared.first} and in {shared.second}. Take them out of one.")

    told = [r for r in report.results if r.clean.auroc <= 0.5 and r.verdict != "inconclusive"]
    yield from dict.fromkeys(escape(f"{r.name} on {r.ood}: {r.reason}") for r in told)
    yield from few(report)
    yield from tied(report)
    yield from unsteady(report)
    yield from moved(report)
    yield from rounded(report)
    for surrogate, names in together((r.surrogate, r.name) for r in report.results if r.surrogate).items():
        agree = agreement(report, surrogate)
        yield escape(f"{names}: attacked through its {surrogate}{agree}; scored by the detector.")
    swept = report.swept
    for r in report.results:
        if r.verdict == "inconclusive" and r.sweep not in swept:
            yield escape(f"{r.name} under {r.threat} on {r.ood} is inconclusive: {r.reason}.")
    bare = ((r.uncertified.rstrip("."), f"{r.name} under {r.threat}") for r in report.results if r.uncertified)
    for reason, names in together(bare).items():
        yield escape(f"Not certified: {names}: {reason}.")
    skipped = (((s.threat, s.reason), s.name) for s in report.skipped)
    for (threat, reason), names in together(skipped).items():
        yield escape(f"{threat} does not apply to {names}: {reason}.")


def together(pairs: Iterable[tuple[T, str]]) -> dict[T, str]:
    """What is said of several -> their names, each once, with commas between."""
    found: dict[T, list[str]] = {}
    for said, name in pairs:
        found.setdefault(said, []).append(name)
    return {said: ", ".join(dict.fromkeys(names)) for said, names in found.items()}


def agreement(report: Report, surrogate: str) -> str:
    """How far a surrogate orders inputs as the score does, in brackets; nothing where that was not asked."""
    asked = (r.indicators.get("surrogate_rank_correlation") for r in report.results if r.surrogate == surrogate)
    found = [value for value in asked if isinstance(value, float)]
    return f" (rank correlation with the score {min(found):.3f} to {max(found):.3f})" if found else ""
