"""Page: the Python interface."""

import inspect
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import oodattack
from docs.pages.docstrings import parsed
from docs.pages.entry import entry, sources
from docs.pages.markdown import link, page, prose, table
from oodattack.pytest_plugin import AssertRobust

INTRODUCTION = """# Python

`import oodattack as oa` offers what is on this page; nothing is imported before it is used."""
PAGES = {"bounds": "bounds.md", "detectors": "detectors.md", "objectives": "objectives.md"}
PYTEST = """## In pytest

The fixture `assert_robust` is there wherever the package is installed. It is called like this:"""


def text() -> str:
    """The page."""
    names = sorted(oodattack.__all__, key=str.lower)
    parts = [part for name in names for part in one(name, getattr(oodattack, name))]
    pytest = [PYTEST, entry(AssertRobust.__call__, "assert_robust"), f"Source: {sources([AssertRobust])}."]
    return page(INTRODUCTION, *parts, *pytest)


def one(name: str, thing: Any) -> Iterable[str]:
    """All about one public name."""
    yield f"## {name}"
    if isinstance(thing, ModuleType):
        yield prose(" ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()))
        if name in PAGES:
            yield f"See {link(name, PAGES[name])}."
            return
        for part in sorted(thing.__all__, key=str.lower):
            yield f"### {part}"
            yield from described(getattr(thing, part), f"oodattack.{name}.{part}")
        return
    yield from described(thing, f"oodattack.{name}")


def described(thing: Any, name: str) -> Iterable[str]:
    """A function, or a class with its methods."""
    yield entry(thing, name)
    if inspect.isclass(thing) and (rows := methods(thing)):
        yield table(["method", ""], rows)
    yield f"Source: {sources([thing])}."


def methods(kind: type) -> list[tuple[str, str]]:
    """What an object can do beyond being called, in a line each."""
    own = [
        (name, thing) for name, thing in vars(kind).items() if not name.startswith("_") and inspect.isfunction(thing)
    ]
    return [(f"`{name}{parameters(thing)}`", first_line(thing)) for name, thing in own if thing.__doc__]


def parameters(thing: Any) -> str:
    """Names of parameters, without self."""
    names = [name for name in inspect.signature(thing).parameters if name != "self"]
    return f"({', '.join(names)})"


def first_line(thing: Any) -> str:
    """What its docstring begins with."""
    said = parsed(inspect.getdoc(thing))
    return prose(said.text[0]) if said.text else ""
