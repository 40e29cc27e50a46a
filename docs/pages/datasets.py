"""Page: data sets."""

from docs.pages.entry import entry, sources
from docs.pages.markdown import page, prose, table
from oodattack.data import DATASETS, GROUPS, PROTOCOLS, START_PICTURES, load
from oodattack.data.groups import GROUP_SOURCES
from oodattack.data.protocols import in_words

INTRODUCTION = """# Data sets

`--id`, `--ood`, `--aux`, `--fit`, `--id-validation` and `--ood-validation` take these names. Nothing is downloaded: a
set that is missing says which files it looks for below `--data-root`, and where they are published. Images are float32
in [0, 1] throughout."""
GROUP_WORDS = """## Groups

The OOD sets that papers and benchmarks use with an ID set: `--ood near` stands for those that go with `--id`,
`--ood near:cifar-10` for those of another; `oodattack.data.expand(["near"], id_name="cifar-10")` lists their names."""
PROTOCOL_WORDS = """## Protocols

What papers do to pictures before a network sees them. `--protocol` does it to all images that a command loads, but for
what is drawn afresh, which has the format of the ID images. Without it, sets whose pictures differ in size get that of
their line where nobody asks for a format."""
START_WORDS = """## Start pictures

`start` of a threat model may name one of these in place of the OOD set:"""


def text() -> str:
    """The page."""
    sets = [
        (f"`{row.name}`", prose(row.description), ", ".join(row.parts), prose(row.source)) for row in DATASETS.values()
    ]
    return page(
        INTRODUCTION,
        table(["name", "", "parts", "source"], sets),
        GROUP_WORDS,
        table(["ID", "group", "OOD sets", "source"], groups()),
        PROTOCOL_WORDS,
        table(["protocol", "steps", "source"], protocols()),
        START_WORDS,
        "\n".join(f"- `{name}`" for name in START_PICTURES),
        "## From Python",
        entry(load, "oodattack.data.load"),
        f"Source: {sources([load])}.",
    )


def groups() -> list[tuple[str, ...]]:
    """Group by group, ID sets with the same OOD sets together."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for id_, named in GROUPS.items():
        for group, sets in named.items():
            together.setdefault((group, tuple(sets)), []).append(id_)
    return [
        (", ".join(f"`{i}`" for i in ids), f"`{group}`", ", ".join(f"`{s}`" for s in sets), prose(GROUP_SOURCES[group]))
        for (group, sets), ids in together.items()
    ]


def protocols() -> list[tuple[str, str, str]]:
    """Name, steps, source."""
    return [(f"`{name}`", in_words(protocol), prose(protocol.source)) for name, protocol in PROTOCOLS.items()]
