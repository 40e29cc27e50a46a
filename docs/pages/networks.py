"""Page: networks."""

from collections.abc import Iterable
from typing import Any

from docs.pages.entry import entries, entry, facts, sources
from docs.pages.markdown import Anchors, link, page, prose, table
from docs.pages.source import made_by
from oodattack.models import MODELS, build
from oodattack.models import table as rows

INTRODUCTION = """# Networks

`--model NAME` takes one of these for `run` and `train`; `torchvision:NAME` and `timm:NAME` take a classifier of that
library, and `pkg.mod:callable` your own code. Weights come from a file, `--weights`: none are downloaded."""


def text() -> str:
    """The page."""
    anchors = Anchors()
    anchors.of("Networks")
    kinds = classes()
    places = {kind: anchors.of(kind.__name__) for kind in dict.fromkeys(kinds.values())}
    overview = table(
        ["name", "", "class", "source"],
        [
            (
                f"`{row.name}`",
                prose(row.description),
                link(f"`{kinds[row.name].__name__}`", f"#{places[kinds[row.name]]}"),
                prose(row.source),
            )
            for row in MODELS.values()
        ],
    )
    parts = [part for kind in places for part in one(kind, [name for name in kinds if kinds[name] is kind])]
    python = ["## From Python", entry(build, "oodattack.models.build"), f"Source: {sources([build])}."]
    return page(INTRODUCTION, overview, *parts, *python)


def classes() -> dict[str, Any]:
    """Name -> class of the network."""
    return {name: made_by(row.build, rows)[0] for name, row in MODELS.items()}


def one(kind: Any, names: list[str]) -> Iterable[str]:
    """All about one class."""
    yield f"## {kind.__name__}"
    yield facts({"names": ", ".join(f"`{name}`" for name in names)})
    yield from entries([kind], kind.__module__, set())
