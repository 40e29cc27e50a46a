"""Page: the fields of report.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import oodattack
from docs.pages.docstrings import parsed
from docs.pages.entry import sources, words
from docs.pages.markdown import Anchors, link, page, prose, table
from oodattack.diagnose import Indicators, verdict

SCHEMA = Path(oodattack.__file__).parent / "report" / "schema.json"
INTRODUCTION = """# report.json

One JSON file from which tables, page and gate are made; its [JSON Schema](../oodattack/report/schema.json) ships with
the package. `schema` is raised when a field changes its meaning or goes; fields that are added leave it alone."""
WORDS = {  # of fields that the schema leaves without
    "auroc": "area under the ROC curve; ties count half",
    "aupr": "area under the precision-recall curve",
    "n_id": "ID images scored",
    "n_ood": "OOD images scored",
    "detector": "name, or `pkg.mod:callable`",
    "network": "what it stands on",
    "threat": "name of the threat model",
    "ood": "name of the OOD set",
    "direction": "what the attacker wants: `aim` of a threat model, or its objective `misclassify`",
    "clean": "before any attack",
    "attacked": "of the images that the attack returned, scored afresh by the untouched detector",
    "deployed": "with the threshold that was set on clean ID scores",
    "mape": "matching: distance left to the target; else null",
    "crossing": "minimum-norm searches: how far the threshold is; else null",
    "seconds": "that the search took",
    "indicators": "what was measured about the search, see below",
    "verdict": "`broken`: a quarter or more of the clean advantage over chance is gone; `holds`: more is left, and no "
    "indicator says that the search failed; `inconclusive`: one does",
    "reason": "of the verdict, in a sentence",
    "certified": "bounds that no attack within the threat model can beat, where they were asked for and there are some",
    "Certified.seconds": "that the bounds took",
    "rows": "how many",
    "against": "what the points are plotted against",
    "points": "pairs of that and the AUROC left",
    "threshold": "on the score",
    "p10": "10th percentile over rows",
    "median": "over rows",
    "p90": "90th percentile over rows",
    "max": "over rows",
    "name": "as on the command line",
    "n": "images used",
    "sha256": "of the images",
    "source": "where they come from",
    "command": "the command line, where there was one",
    "seed": "of the searches and of what is drawn",
    "samples": "images per set that were asked for",
    "batch_size": "rows attacked at a time",
    "precision": "of the search",
    "device": "where it was computed",
    "id": "the ID set",
    "targets": "ID images that matching and quantiles aim at, disjoint from those that are evaluated",
    "detectors": "all that were asked for",
    "images": "how many",
    "schema": "number of this schema",
    "Spec.ood": "the OOD sets",
    "Skipped.reason": "why",
    "created": "date and time, UTC",
    "spec": "what is needed to repeat the run",
    "versions": "of Python and the packages that matter",
    "results": "a record per detector, threat model and OOD set",
    "skipped": "what does not apply, and why",
    "curves": "AUROC along the search and against eps",
}
ENDS = {"_low": "lower end of its 95 % interval", "_high": "upper end of its 95 % interval"}


def text() -> str:
    """The page."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = {"Report": schema} | schema["$defs"]
    anchors = Anchors()
    anchors.of("report.json")
    places = {name: anchors.of(name) for name in parts}
    return page(INTRODUCTION, *(part for name in parts for part in one(name, parts[name], places)), *indicators())


def indicators() -> Iterable[str]:
    """What is measured about a search, and what follows."""
    said = parsed(Indicators.__doc__)
    yield "## Indicators"
    yield from words(said)
    yield table(["indicator", ""], [(f"`{name}`", prose(text)) for name, text in said.sections["Attributes"]])
    yield "## Verdicts"
    yield from words(parsed(verdict.__doc__))
    yield f"Source: {sources([Indicators])}."


def one(name: str, record: dict[str, Any], places: dict[str, str]) -> Iterable[str]:
    """All about one record."""
    yield f"## {name}"
    yield from (prose(" ".join(part.split())) for part in record["description"].split("\n\n"))
    rows = [
        (f"`{field}`", kind(what, places), prose(what.get("description") or meaning(name, field)))
        for field, what in record["properties"].items()
    ]
    yield table(["field", "type", ""], rows)


def meaning(record: str, field: str) -> str:
    """What a field is, where the schema does not say; nothing where nobody has said it yet, which a test sees."""
    end = next((end for end in ENDS if field.endswith(end)), None)
    return ENDS[end] if end else WORDS.get(f"{record}.{field}", WORDS.get(field, ""))


def kind(what: dict[str, Any], places: dict[str, str]) -> str:
    """The type of a field."""
    if "$ref" in what:
        name = what["$ref"].rpartition("/")[2]
        return link(name, f"#{places[name]}")
    if "anyOf" in what:
        return " or ".join(kind(part, places) for part in what["anyOf"])
    if "enum" in what:
        return ", ".join(f"`{value}`" for value in what["enum"])
    if "const" in what:
        return f"{what['const']}"
    if "prefixItems" in what:
        return f"({', '.join(kind(part, places) for part in what['prefixItems'])})"
    if "items" in what:
        return f"list of {kind(what['items'], places)}"
    if isinstance(inner := what.get("additionalProperties"), dict):
        return f"object, name to {kind(inner, places)}"
    share = (what.get("minimum"), what.get("maximum")) == (0, 1)
    return "number in [0, 1]" if share else what["type"]
