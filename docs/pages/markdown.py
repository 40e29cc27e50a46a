"""Markdown as code-hosting sites render it."""

import re
from collections.abc import Iterable, Sequence

from docs.pages.formulas import marked

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
SPECIAL = re.compile(r"([\\*_$]|\](?=\()|<(?=[\w/!]))")


def prose(text: str) -> str:
    """Plain text: formulas as code, papers as links, nothing else taken for markup."""
    parts = re.split(r"(`[^`]*`)", marked(text))
    return "".join(part if i % 2 else ARXIV.sub(paper, SPECIAL.sub(r"\\\1", part)) for i, part in enumerate(parts))


def paper(found: re.Match[str]) -> str:
    """A paper as a link."""
    return f"[arXiv:{found[1]}](https://arxiv.org/abs/{found[1]})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def link(words: str, target: str) -> str:
    """A link to a page, a part of one, or a file."""
    return f"[{words}]({target})"


class Anchors:
    """What a code-hosting site calls the headings of a page: its letters and digits, numbered when they come again."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def of(self, heading: str) -> str:
        """The anchor of the next heading."""
        bare = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = self.seen[bare] = self.seen.get(bare, -1) + 1
        return f"{bare}-{count}" if count else bare


def page(*parts: str, home: bool = True) -> str:
    """A page of its parts, with a note that it is generated and, with `home`, the way back."""
    note = "<!-- Made by `python -m docs.build` from tables and docstrings: change those. -->"
    back = link("Documentation", "README.md") if home else ""
    return "\n\n".join(part for part in (note, back, *parts) if part) + "\n"
