"""`oodattack verify`."""

from pathlib import Path

import click

EXAMPLE = "Example: oodattack verify my-run"


@click.command(epilog=EXAMPLE)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--quiet", is_flag=True, help="Print the outcome and what is not the same.")
def verify(folder: Path, quiet: bool) -> None:
    """Compute the report of a finished run again from its saved images, without the attacks.

    Checks hashes of all files; images in the box and within the radius; scores by the detectors loaded afresh, of the
    images exact and in 8 bits; every metric. Prints claimed against recomputed, and stops with exit code 1 at the
    first difference. How the search went, or what a detector was fitted to, no saved image tells; scores that use
    random numbers are not compared, and the outcome says so.
    """
    from oodattack import job

    lines, unknown, failed = 0, 0, ""
    try:
        for line in job.verify(folder):
            lines += 1
            unknown += not line.compared
            word = "DIFFERENT" if not line.agree else "same" if line.compared else "unknown"
            if not quiet or word != "same":
                click.echo(f"{word:<9}  {line.what}: {line.claimed} | {line.found}")
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
    more = f"; {unknown} more could not be compared" if unknown else ""
    click.echo(f"{folder}: {lines - unknown} claims, all the same when computed again (claimed | computed again){more}")
