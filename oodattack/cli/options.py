"""Options that several commands have."""

from functools import partial
from pathlib import Path

import click

from oodattack.cli.names import names

SEED = click.IntRange(0, 2**63 - 1)  # what a random generator takes


def _numbers(_context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Read "0.49,0.48,0.45"."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"must be numbers with commas between, got {value!r}. Write them like 0.49,0.48,0.45", param=option
        ) from None


mean = click.option(
    "--mean",
    callback=_numbers,
    metavar="A,B,C",
    help="Per-channel mean that the network subtracts from images in [0, 1].",
)
std = click.option(
    "--std", callback=_numbers, metavar="A,B,C", help="Per-channel standard deviation that it divides by."
)
data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of downloaded data sets."
)
protocol = click.option(
    "--protocol",
    metavar="NAME",
    shell_complete=names("protocols"),
    help="What is done to the images before a network sees them, see `oodattack list protocols`.  [default: they are "
    "brought to the format of the ID images, but for arrays and user code, which keep theirs]",
)
id_ = partial(
    click.option, "--id", "id_", default="digits", show_default=True, metavar="NAME", shell_complete=names("datasets")
)
seed = partial(click.option, "--seed", type=SEED, default=0, show_default=True, metavar="N")
precision = partial(
    click.option, "--precision", type=click.Choice(["full", "bfloat16"]), default="full", show_default=True
)
device = click.option(
    "--device", default="cpu", show_default=True, metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1, mps."
)


def alone(*allowed: str) -> None:
    """Refuse options beside those that may be given together."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name not in allowed and context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"`--{allowed[0]}` must stand alone, got {option.opts[0]} too. The plan of the run has all options",
                context,
            )
