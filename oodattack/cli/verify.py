"""`oodattack verify`."""

from pathlib import Path

import click

EXAMPLE = "Example: oodattack verify my-run"


@click.command(epilog=EXAMPLE)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--quiet", is_flag=True, help="Print the outcome and what is different, not what is the same.")
def verify(folder: Path, quiet: bool) -> None:
    """Compute the report of a finished run again from its saved images, without the attacks.

    Checks hashes of all files; images in the box and within the radius; scores by the detectors loaded afresh, of the
    images exact and in 8 bits; every metric. Prints claimed against recomputed, and stops with exit code 1 at the
    first difference.
    """
    from oodattack import job

    lines, failed = 0, ""
    try:
        for line in job.verify(folder):
            lines += 1
            if not (quiet and line.agree):
                word = "same     " if line.agree else "DIFFERENT"
                click.echo(f"{word}  {line.what}: {line.claimed} | {line.found}")
            if not line.agree:
                failed = f"{folder} is not what it claims: {line.what}"
                break
    except ValueError as error:
        if not lines:
            raise
        failed = " ".join(str(error).split())
    if failed:
        click.echo(f"oodattack: {failed}", err=True)
        raise click.exceptions.Exit(1)
    click.echo(f"{folder}: {lines} claims, all the same when computed again (claimed | computed again)")
