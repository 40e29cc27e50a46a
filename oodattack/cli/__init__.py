"""Command line: a file a command. The only room that reads argv and prints."""

from oodattack.cli.commands import cli
from oodattack.cli.exit_codes import main

__all__ = ["cli", "main"]
