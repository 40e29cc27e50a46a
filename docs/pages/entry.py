"""One function or class on a page: how to call it, what it does, what it takes, what differs from the paper."""

import inspect
from importlib import import_module
from typing import Any

from docs.pages.docstrings import Docstring, parsed
from docs.pages.markdown import code, link, prose, table
from docs.pages.source import file_of, formula_of, signature

TITLES = {"Args": "argument", "Attributes": "attribute"}


def entry(thing: Any, name: str) -> str:
    """Signature, words, arguments, differences.

    Args:
        thing: a function or class of the package.
        name: as a user writes it.
    """
    said = parsed(inspect.getdoc(thing))
    parts = [code(signature(thing, name), "python"), *words(said)]
    for title, head in TITLES.items():
        if title in said.sections:
            parts.append(table([head, ""], [(f"`{n}`", prose(w)) for n, w in said.sections[title]]))
    parts += [f"**Returns**: {prose(w)}" for _, w in said.sections.get("Returns", [])]
    parts += [f"**Raises** `{n}`: {prose(w)}" for n, w in said.sections.get("Raises", [])]
    parts += [differs(part) for part in said.differs]
    return "\n\n".join(parts)


def words(said: Docstring) -> list[str]:
    """The paragraphs of a docstring."""
    return [paragraph(part) for part in said.text]


def paragraph(part: str) -> str:
    """A paragraph, a list, or code."""
    if part.startswith("    "):
        return code(inspect.cleandoc(part), "python")
    return "\n".join(prose_of_a_line(line) for line in part.split("\n"))


def prose_of_a_line(line: str) -> str:
    """A line of a paragraph; the mark of a list's item is no minus sign."""
    mark = "- " if line.startswith("- ") else ""
    return mark + prose(line[len(mark) :])


def differs(part: str) -> str:
    """A difference from the paper, with its first words set apart."""
    head, _, rest = part.partition(": ")  # with its space: "arXiv:" ends nothing
    return f"**{prose(head)}**: {prose(rest)}"


def entries(things: list[Any], room: str, shown: set[Any]) -> list[str]:
    """Entries of things that belong together, each preceded by the formula it rests on; what was shown is named only.

    Args:
        things: functions and classes.
        room: the package they are called from, such as "oodattack.detectors".
        shown: what has an entry already; added to.
    """
    parts = []
    again = [thing for thing in things if thing in shown]
    for thing in dict.fromkeys(things):
        if thing in shown:
            continue
        shown.add(thing)
        formula = formula_of(thing)
        if formula is not None and formula not in shown:
            shown.add(formula)
            offered = getattr(import_module(room), formula.__name__, None) is formula
            parts.append(entry(formula, f"{room if offered else formula.__module__}.{formula.__name__}"))
        parts.append(entry(thing, f"{room}.{thing.__name__}"))
    if again:
        parts.append(f"Uses {', '.join(f'`{thing.__name__}`' for thing in again)}, see above.")
    parts.append(f"Source: {sources(things)}.")
    return parts


def sources(things: list[Any]) -> str:
    """The files of things, as links from a page in docs/."""
    files = dict.fromkeys(file_of(thing) for thing in things)
    return ", ".join(link(f"`{name}`", f"../{name}") for name in files)


def facts(plain: dict[str, str], ready: dict[str, str] | None = None) -> str:
    """What is to be known of a row of a table, as a list; `ready` is Markdown already."""
    lines = {name: prose(text) for name, text in plain.items()} | (ready or {})
    return "\n".join(f"- **{name}**: {text}" for name, text in lines.items() if text)
