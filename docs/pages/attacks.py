"""Page: attacks."""

from collections.abc import Iterable

from docs.pages.entry import entries, facts
from docs.pages.markdown import Anchors, link, page, prose, table
from docs.pages.source import paper_of
from oodattack.attacks import ATTACKS, Row, outside

INTRODUCTION = """# Attacks

An attack is how to search; what may be changed, by how much and to what end is in a [threat model](threat-models.md),
whose field `attack` names one of these. It sees a loss a row and never a detector: the
[aims](threat-models.md#fields) make losses of scores."""
YOURS = """## Yours

`attack = "pkg.mod:callable"` runs an attack of your own: [how to write one](guides/new-attack.md)."""
OUTSIDE = """## Attacks of torchattacks

`attack = "torchattacks:NAME"` runs that library's attack on the score itself, whatever its scale. What it returns is
projected and scored again like everything else."""


def text() -> str:
    """The page."""
    anchors = Anchors()
    shown: set[object] = set()
    anchors.of("Attacks")
    places = {name: anchors.of(name) for name in ATTACKS}
    overview = table(
        ["attack", "how it searches", "source"],
        [(link(f"`{r.name}`", f"#{places[r.name]}"), prose(r.description), prose(r.source)) for r in ATTACKS.values()],
    )
    theirs = table(["attack", "what to know"], [(f"`{r['name']}`", prose(r["description"])) for r in outside()])
    parts = [part for row in ATTACKS.values() for part in one(row, shown)]
    return page(INTRODUCTION, overview, *parts, YOURS, OUTSIDE, theirs)


def one(row: Row, shown: set[object]) -> Iterable[str]:
    """All about one attack."""
    yield f"## {row.name}"
    yield facts({"search": row.description, "method": paper_of(row.make), "source": row.source})
    yield from entries([row.make], "oodattack.attacks", shown)
