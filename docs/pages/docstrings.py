"""What a docstring in Google's style says, part by part."""

import inspect
import re
import textwrap
from typing import NamedTuple

SECTIONS = ("Args", "Attributes", "Returns", "Raises")
DIFFERS = re.compile(r"(?=Differs from the (?:paper|authors' code):)")


class Docstring(NamedTuple):
    """A docstring, each paragraph on a line of its own.

    Attributes:
        text: paragraphs; those that were indented keep their lines, as code, and lists theirs.
        sections: title -> (name, words) of each entry; the name is empty where a section has plain words.
        differs: what differs from paper or code, a sentence or more each.
    """

    text: list[str]
    sections: dict[str, list[tuple[str, str]]]
    differs: list[str]


def parsed(docstring: str | None) -> Docstring:
    """Take a docstring apart."""
    found = Docstring([], {}, [])
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "").strip()):
        title, _, rest = block.partition("\n")
        if title.rstrip(":") in SECTIONS and title.endswith(":"):
            found.sections[title[:-1]] = entries(rest, named=title != "Returns:")
        elif block.startswith("    "):
            found.text.append(block)
        elif block.startswith("Differs from "):
            found.differs.extend(part.strip() for part in DIFFERS.split(one_line(block)) if part)
        elif block.startswith("- "):
            found.text.append(block)
        elif block:
            found.text.append(one_line(block))
    return found


def entries(block: str, *, named: bool) -> list[tuple[str, str]]:
    """The entries of a section, whose continued lines are indented further than the first."""
    lines = textwrap.dedent(block).splitlines()
    if not named:
        return [("", one_line(block))]
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    return [(name, words.strip()) for name, _, words in (item.partition(":") for item in items)]


def one_line(block: str) -> str:
    """A paragraph without its line breaks."""
    return " ".join(block.split())
