"""Page: certified bounds."""

import inspect

from docs.pages.docstrings import parsed
from docs.pages.entry import words
from docs.pages.markdown import Anchors, link, page, prose, table
from docs.pages.python import described
from docs.pages.source import made_by
from oodattack import bounds, detectors
from oodattack.bounds import SCORES
from oodattack.detectors import DETECTORS

INTRODUCTION = """# Certified bounds

`oodattack run --certify` and `evaluate(..., certify=True)` bound all scores on the ball of a threat model: no attack
can leave less than the certified AUROC. Why there is none, where there is none, is in the report's
[`uncertified`](report.md#result)."""
WITH = "## Detectors with bounds"
SUMS = "A `WeightedSum` has bounds where all its parts have."


def text() -> str:
    """The page."""
    anchors = Anchors()
    anchors.of("Detectors")  # the title of that page
    anchors.of("What a detector is")
    places = {name: anchors.of(name) for name in DETECTORS}
    kinds = {name: next(filter(inspect.isclass, made_by(row.build, detectors))) for name, row in DETECTORS.items()}
    rows = [
        (link(f"`{name}`", f"detectors.md#{places[name]}"), prose(DETECTORS[name].description), f"`{kind.__name__}`")
        for name, kind in kinds.items()
        if kind in SCORES and kind is not detectors.WeightedSum
    ]
    parts = [part for name in sorted(bounds.__all__, key=str.lower) for part in one(name)]
    return page(
        INTRODUCTION,
        *words(parsed(inspect.getdoc(bounds))),
        WITH,
        table(["detector", "score", "class"], rows),
        SUMS,
        *parts,
    )


def one(name: str) -> list[str]:
    """All about one public name."""
    thing = getattr(bounds, name)
    return [f"## {name}", *described(thing, f"oodattack.bounds.{name}")] if callable(thing) else []
