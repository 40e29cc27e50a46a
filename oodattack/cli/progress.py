"""Progress bars with an ETA."""

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def bars_on_stderr() -> "Iterator[Callable[[str, int, int], None] | None]":
    """Progress bars with an ETA on standard error; nothing at all where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if not console.is_interactive:
        yield None
        return
    text = TextColumn("{task.description:<34.34}")
    columns = (text, BarColumn(bar_width=18), TaskProgressColumn(), TextColumn("ETA"), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bars:

        def progress(label: str, done: int, total: int) -> None:
            key = label if label.startswith("training") else "attack"
            if key not in tasks:
                tasks[key] = bars.add_task(label, total=total)
            bars.update(tasks[key], description=label, completed=done, total=total)

        yield progress
