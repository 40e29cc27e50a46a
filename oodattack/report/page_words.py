"""What a page says in words and numbers: the verdict on each detector over all attacks, the metrics of a cell."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from oodattack.report.record import Metrics, Report, Result

MARK = {"broken": "✗", "holds": "✓", "inconclusive": "?"}
RANDOM = "sanity-random"  # checks a search, as the whole box does
WORST_FIRST: tuple[Literal["broken", "inconclusive", "holds"], ...] = ("broken", "inconclusive", "holds")


class Headline(NamedTuple):
    """What is said of one detector."""

    name: str
    verdict: str
    sentences: list[str]


def headlines(report: Report) -> list[Headline]:
    """One for each detector, in the order of the report."""
    found: dict[str, list[Result]] = {}
    for r in report.results:
        found.setdefault(r.name, []).append(r)
    swept = report.swept
    said: list[Headline] = []
    for name, results in found.items():
        mine = counted(report, results)
        said.append(headline(name, mine))
        if apart := dict.fromkeys(r.sweep for r in results if r.sweep in swept and r not in mine):
            said[-1].sentences.append(f"Not counted: the radii of {', '.join(apart)}; see AUROC against eps.")
    return said


def counted(report: Report, results: list[Result]) -> list[Result]:
    """The results that a verdict counts: others where there are any than sanity threats, radii of a sweep, searches for
    how near the threshold is, and ID images against ID images.
    """
    swept = report.swept
    for counts in (
        lambda r: not (r.whole_box or r.threat == RANDOM),
        lambda r: r.sweep not in swept,
        lambda r: r.direction != "cross",
        lambda r: not r.indicators.get("id_against_id"),
    ):
        results = [r for r in results if counts(r)] or results
    return results


def headline(name: str, results: Sequence[Result]) -> Headline:
    """The worst verdict of one detector, and what led to it."""
    verdicts = [r.verdict for r in results]
    worst = next(v for v in WORST_FIRST if v in verdicts)
    hiding = [r for r in results if r.direction not in ("match", "quantile")]
    matching = [r for r in results if r.direction in ("match", "quantile")]
    best = max(results, key=lambda r: r.clean.auroc)
    said = [tally(verdicts) if best.clean.auroc > 0.5 else best.reason[0].upper() + best.reason[1:]]
    strongest = "Under the strongest search on the score" if matching else "Under the strongest attack"
    for kind, some in ((strongest, hiding), ("Matching ID images", matching)):
        if some:
            r = min(some, key=lambda r: r.attacked.auroc)
            said.append(f"{kind}, AUROC {r.clean.auroc:.3f} becomes {r.attacked.auroc:.3f} ({r.threat} on {r.ood}).")
    if worst == "inconclusive":
        said.append("No attack broke it, but some may have failed for reasons of their own: see below.")
    return Headline(name, worst, said)


def tally(verdicts: Sequence[str]) -> str:
    """How many attacks ended how."""
    n = {v: verdicts.count(v) for v in WORST_FIRST}
    total = len(verdicts)
    if total == 1:
        return {"broken": "The attack breaks it.", "holds": "It holds.", "inconclusive": "Inconclusive."}[verdicts[0]]
    if n["broken"] == total:
        return f"All {total} attacks break it."
    if n["holds"] == total:
        return f"It holds against all {total} attacks."
    words = {
        "broken": f"{n['broken']} break{'s' if n['broken'] == 1 else ''} it",
        "inconclusive": f"{n['inconclusive']} {'is' if n['inconclusive'] == 1 else 'are'} inconclusive",
        "holds": f"it holds against {n['holds']}",
    }
    return f"Of {total} attacks: {', '.join(words[v] for v in WORST_FIRST if n[v])}."


def sanity(report: Report) -> str | None:
    """What the sanity threats say about the searches."""
    names = ", ".join(dict.fromkeys(r.threat for r in report.results if r.whole_box or r.threat == RANDOM))
    if not names:
        return None
    said = f"{names}: a check of the search that counts nowhere above"
    left = [r.attacked.auroc for r in report.results if r.whole_box]
    if not left:
        return f"{said}."
    says = "as it must be where a search works" if max(left) <= 0.5 else "a search that works leaves 0.5 or less"
    return f"{said}; the whole box left AUROC {max(left):.3f} at most, {says}."


def metrics_rows(result: Result) -> list[tuple[str, list[str]]]:
    """Every metric: clean, attacked, attacked in 8 bits."""
    sides = (result.clean, result.attacked, result.attacked_8bit)

    def row(name: str, field: str, *, interval: bool = True) -> tuple[str, list[str]]:
        return name, [interval_text(m, field) if interval else f"{getattr(m, field):.3f}" for m in sides]

    return [
        row("AUROC", "auroc"),
        row("FPR at 95 % ID TPR", "fpr_at_95_id_tpr"),
        row("FPR at 95 % OOD TPR", "fpr_at_95_ood_tpr"),
        row("AUPR", "aupr", interval=False),
        row("tied pairs", "ties", interval=False),
    ]


def interval_text(m: Metrics, field: str) -> str:
    """A value with its 95 % interval."""
    value, low, high = (getattr(m, field + end) for end in ("", "_low", "_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
