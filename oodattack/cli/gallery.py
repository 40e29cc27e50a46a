"""`oodattack gallery`."""

from pathlib import Path
from typing import Any

import click

EXAMPLE = "Example: oodattack gallery my-run --worst 4 --class 3"


@click.command(epilog=EXAMPLE)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--worst",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="K",
    help="Rows per cell: those that score worst.",
)
@click.option(
    "--class", "class_", type=click.IntRange(min=0), metavar="C", help="Only adversarial images predicted as class C."
)
@click.option(
    "--judge",
    metavar="NAME",
    help="Detector of the run that says what looks like an ID image.  [default: distance in pixels]",
)
def gallery(folder: Path, **options: Any) -> None:
    """Show what the attacks of a finished run made: contact sheets and a page around them.

    A sheet per cell, that is per detector, threat and OOD set, with target, start, adversarial image, magnified
    difference, scores, predicted class and MAPE; a warning where an attack has made what looks like an ID image.
    """
    from oodattack import job

    page, shown, cells = job.gallery(folder, **options)
    click.echo(f"{page}: contact sheets of {'every cell' if shown == cells else f'{shown} of {cells} cells'}")
