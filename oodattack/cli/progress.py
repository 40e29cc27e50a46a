"""How far it is: bars with an ETA, or a line now and then where there is no terminal."""

import sys
import time
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERY = 30.0  # seconds between two lines
FITTING = "fitting "  # how the label of what tells nothing until it is done begins


@contextmanager
def bars_on_stderr() -> "Iterator[Callable[[str, int, int], None]]":
    """Progress bars with an ETA on standard error; where that is no terminal, such as in CI, `lines_on_stderr`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if not console.is_interactive:
        with lines_on_stderr() as lines:
            yield lines
        return
    text = TextColumn("{task.description:<34.34}")
    columns = (text, BarColumn(bar_width=18), TaskProgressColumn(), TextColumn("ETA"), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bars:

        def progress(label: str, done: int, total: int) -> None:
            key = label if label.startswith("training") else "fitting" if label.startswith(FITTING) else "attack"
            if key not in tasks:
                tasks[key] = bars.add_task(label, total=total)
            bars.update(tasks[key], description=label, completed=done, total=total)

        yield progress


@contextmanager
def lines_on_stderr() -> "Iterator[Callable[[str, int, int], None]]":
    """A line on standard error every half minute; none for what is done before.

    Fitting is named when it has taken that long, and its time is not counted in that of the searches.
    """
    began = last = time.monotonic()
    fitting: float | None = None
    waiting: Timer | None = None

    def progress(label: str, done: int, total: int) -> None:
        nonlocal began, last, fitting, waiting
        now = time.monotonic()
        if waiting is not None:
            waiting.cancel()
            waiting = None
        if label.startswith(FITTING):
            fitting = now if fitting is None else fitting
            if done < total:
                waiting = Timer(EVERY, lambda: click.echo(f"oodattack: {label}", err=True))
                waiting.daemon = True
                waiting.start()
            return
        if fitting is not None:
            began, fitting = began + now - fitting, None
        if now - last >= EVERY:
            last = now
            share = 100 * done / max(total, 1)
            click.echo(f"oodattack: {share:.0f} % after {(now - began) / 60:.1f} min: {label}", err=True)

    try:
        yield progress
    finally:
        if waiting is not None:
            waiting.cancel()
