"""Page: the command line."""

import inspect
from collections.abc import Iterable

import click

from docs.pages.docstrings import parsed
from docs.pages.entry import words
from docs.pages.markdown import code, page, prose, table
from oodattack.cli import cli, main

INTRODUCTION = """# Command line

`oodattack COMMAND --help` says the same in the terminal. Tab completes names: see [completion](#completion)."""


def text() -> str:
    """The page."""
    codes = ["## Exit codes", "\n".join(f"- **{number}**: {what}" for number, what in exit_codes())]
    parts = [part for name, command in cli.commands.items() for part in one(name, command)]
    return page(INTRODUCTION, *parts, *codes)


def one(name: str, command: click.Command) -> Iterable[str]:
    """All about one command."""
    context = click.Context(command, info_name=name)
    yield f"## {name}"
    yield code(f"oodattack {name} {' '.join(command.collect_usage_pieces(context))}", "sh")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        kept, _, lines = paragraph.partition("\b\n")
        yield code(lines, "sh") if not kept and lines else words(parsed(paragraph))[0]
    options = [option for option in command.params if isinstance(option, click.Option)]
    if options:
        yield table(["option", "", "default"], [row(option) for option in options])
    yield "Example:"
    yield code(" ".join((command.epilog or "").split()).removeprefix("Example: "), "sh")


def row(option: click.Option) -> tuple[str, str, str]:
    """An option in a line."""
    said, _, default = (option.help or "").partition("[default: ")
    shown = default.rstrip("]") if default else f"{option.default}" if option.show_default else ""
    return f"`{' '.join([option.opts[0], value(option)]).strip()}`", prose(said.strip()), prose(shown)


def value(option: click.Option) -> str:
    """What an option takes."""
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return "|".join(option.type.choices)
    return option.metavar or {"integer range": "N", "text": "NAME"}.get(option.type.name, option.type.name.upper())


def exit_codes() -> list[tuple[str, str]]:
    """Number and meaning, from the docstring of `main`."""
    listed = (inspect.getdoc(main) or "").partition("Exit codes: ")[2].rstrip(".")
    pairs = [part.split(" ", 1) for part in " ".join(listed.split()).split(", ")]
    return [(number, prose(what)) for number, what in pairs]
