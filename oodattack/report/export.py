"""The report as others take it up: rows of numbers for pandas and spreadsheets, a table for a LaTeX paper."""

import csv
import io

from oodattack.report.record import Metrics, Report, Result

METRICS = ("auroc", "auroc_low", "auroc_high", "fpr_at_95_id_tpr", "aupr")
MARKS = {"broken": "", "holds": r"\,\checkmark", "inconclusive": r"\,?"}
WORDS = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "&%$#_{}"} | WORDS)


def csv_text(report: Report) -> str:
    """One line a detector, threat and OOD set: numbers before and after the attack, in full precision."""
    lines = [row(result) for result in report.results]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def row(result: Result) -> dict[str, object]:
    """What a line says of one result; what does not apply is empty."""

    def numbers(prefix: str, found: Metrics) -> dict[str, object]:
        return {f"{prefix}_{name}": getattr(found, name) for name in METRICS}

    return {
        "detector": result.detector,
        "network": result.network,
        "threat": result.threat,
        "ood": result.ood,
        "n_id": result.clean.n_id,
        "n_ood": result.clean.n_ood,
        **numbers("clean", result.clean),
        **numbers("attacked", result.attacked),
        "attacked_8bit_auroc": result.attacked_8bit.auroc,
        "certified_auroc": result.certified_auroc,
        "mape_median": result.mape and result.mape.median,
        "distance_median": result.crossing and result.crossing.median,
        "distance_largest": result.distance,
        "queries": result.queries,
        "verdict": result.verdict,
        "reason": result.reason,
    }


def tex_text(report: Report) -> str:
    """A `tabular` of booktabs for each OOD set: detectors down, clean and threats across, AUROC in percent."""
    return "\n".join(tabular(report, ood) for ood in dict.fromkeys(r.ood for r in report.results))


def tabular(report: Report, ood: str) -> str:
    """The table of one OOD set, in the order of the report."""
    results = [r for r in report.results if r.ood == ood]
    threats = list(dict.fromkeys(r.threat for r in results))
    n = results[0].clean
    lines = [
        f"% AUROC in %, {n.n_id} {report.spec.id.name} (ID) against {n.n_ood} {ood} (OOD), OOD positive",
        r"% \checkmark (amssymb): holds against these searches, no certificate; ?: inconclusive; no mark: broken",
        rf"\begin{{tabular}}{{l{'r' * (1 + len(threats))}}}",
        r"\toprule",
        cells("detector", "clean", *map(escaped, threats)),
        r"\midrule",
    ]
    for name in dict.fromkeys(r.name for r in results):
        mine = {r.threat: r for r in results if r.name == name}
        clean = percent(next(iter(mine.values())).clean.auroc)
        lines.append(cells(escaped(name), clean, *(attacked(mine.get(threat)) for threat in threats)))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def attacked(result: Result | None) -> str:
    """AUROC left and a mark; a dash where the threat does not apply."""
    return "--" if result is None else percent(result.attacked.auroc) + MARKS[result.verdict]


def percent(share: float) -> str:
    """97.3, the digits of the .973 in the terminal."""
    return f"{100 * round(share, 3):.1f}"


def cells(*texts: str) -> str:
    r"""a & b & c \\."""
    return rf"{' & '.join(texts)} \\"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(SPECIAL)
