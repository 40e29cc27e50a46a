"""What completes an option that takes a name.

Names come from names.json beside this file: the tables they are in need torch, and nobody waits seconds for a Tab.
`python -m docs.build` writes it anew, and a test says when that is due.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FILE = Path(__file__).with_name("names.json")


@cache
def known() -> dict[str, dict[str, str]]:
    """Kind -> name -> what it is, of everything that has a name."""
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def starting(start: str, names: Iterable[str], words: dict[str, str]) -> "list[CompletionItem[str]]":
    """The names that begin like what was typed."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, help=words.get(name)) for name in names if name.startswith(start)]


def names(
    kind: str, *, or_file: bool = False
) -> "Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]":
    """What completes an option with the names of a kind, or else, with `or_file`, those of files."""

    def complete(_context: click.Context, _option: click.Parameter, start: str) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        found = starting(start, known()[kind], known()[kind])
        return found or ([CompletionItem(start, type="file")] if or_file else [])

    return complete


def on_networks(context: click.Context, _option: click.Parameter, start: str) -> "list[CompletionItem[str]]":
    """Detectors, and behind an @ the networks of the embedded default: odin@gq, ensemble@ce,gq."""
    detector, at, typed = start.partition("@")
    if not at:
        return starting(start, known()["detectors"], known()["detectors"])
    if detector not in known()["detectors"] or detector in known()["bare"] or context.params.get("model"):
        return []
    earlier, comma, _ = typed.rpartition(",")
    if comma and detector not in known()["several"]:
        return []
    left = [network for network in known()["networks"] if network not in earlier.split(",")]
    return starting(start, [f"{detector}@{earlier}{comma}{network}" for network in left], {})
