"""Page: detectors."""

from collections.abc import Iterable

from docs.pages.docstrings import parsed
from docs.pages.entry import entries, facts, words
from docs.pages.markdown import Anchors, link, page, prose, table
from docs.pages.source import made_by, paper_of
from oodattack import detectors
from oodattack.detector import Detector
from oodattack.detectors import DETECTORS, Row

INTRODUCTION = """# Detectors

`oodattack run --detector NAME` puts a detector of this page under attack. `NAME@NETWORK` says which network it stands
on, `odin@gq` the network trained with GQ; without, it is the one trained with plain cross-entropy, or that of
`--model`."""
ON = """What it stands on: the **network** alone; **ID images**, on which it is fitted, with labels where it says so
(`--fit`, on the embedded default its own training images; where `--id-validation` will do, no `--fit` is asked for);
**OOD images** for validation too, on which it is tuned (`--ood-validation`) beside ID images (`--id-validation`, by
default those of `--fit`);
**several** networks; **no network**, the images alone."""


def text() -> str:
    """The page."""
    anchors = Anchors()
    shown: set[object] = set()
    anchors.of("Detectors"), anchors.of("What a detector is")
    places = {name: anchors.of(name) for name in DETECTORS}
    overview = table(
        ["detector", "score, higher means more OOD", "stands on", "source"],
        [
            (link(f"`{row.name}`", f"#{places[row.name]}"), prose(row.description), needs(row), prose(row.source))
            for row in DETECTORS.values()
        ],
    )
    what = ["## What a detector is", *words(parsed(Detector.__doc__))]
    return page(INTRODUCTION, ON, overview, *what, *(part for row in DETECTORS.values() for part in one(row, shown)))


def needs(row: Row) -> str:
    """What a detector stands on, in words."""
    if row.bare:
        return "no network, ID images"
    parts = ["several networks" if row.several else "network"]
    parts += ["labelled ID images" if row.labels else "ID images"] * row.fits + ["OOD images"] * row.tunes
    return ", ".join(parts)


def one(row: Row, shown: set[object]) -> Iterable[str]:
    """All about one detector."""
    things = made_by(row.build, detectors)
    yield f"## {row.name}"
    yield facts(
        {"score": row.description, "method": paper_of(things[0]), "source": row.source}, {"stands on": needs(row)}
    )
    yield from entries(things, "oodattack.detectors", shown)
