"""`oodattack train`."""

from pathlib import Path
from typing import Any

import click

from oodattack.cli.names import names
from oodattack.cli.options import data_root, device, id_, mean, precision, protocol, seed, std
from oodattack.cli.progress import bars_on_stderr

EXAMPLE = "Example: oodattack train --objective greg+ --out greg-plus.safetensors"


@click.command(epilog=EXAMPLE)
@click.option(
    "--objective",
    metavar="NAME",
    shell_complete=names("objectives"),
    help="What to train for: see `oodattack list objectives`.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    shell_complete=names("recipes"),
    help="How to train: see `oodattack list recipes`.  [default: the one named after the objective]",
)
@id_(help="Labelled in-distribution (ID) images.")
@click.option(
    "--aux",
    metavar="NAME",
    shell_complete=names("datasets"),
    help="Outliers to train with: a name, npz:PATH or pkg.mod:callable.",
)
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=names("models"),
    help="Architecture: see `oodattack list models`.  [default: small; plain for ibp-oe]",
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights to start from.")
@mean
@std
@data_root
@protocol
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="ID images to train on, at most.  [default: all]"
)
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Number of epochs. This and the options to --sampler replace values of the recipe.",
)
@click.option("--lr", type=float, metavar="X", help="Highest learning rate.")
@click.option("--batch-size", type=int, metavar="N", help="ID images per step.")
@click.option("--weight", type=float, metavar="X", help="Factor of the objective's own term.")
@click.option("--weight-decay", type=float, metavar="X", help="Weight decay of the optimiser.")
@click.option("--gradient-term", "penalty", type=float, metavar="X", help="Factor of GReg's gradient term.")
@click.option(
    "--quotient",
    type=click.Choice(["code", "paper"]),
    help="Reading of gq: that of the authors' code, or the paper's equations, a backward pass a class.",
)
@click.option("--eps", type=float, metavar="X", help="Radius of the linf balls around outliers of ibp-oe.")
@click.option("--margin-id", type=float, metavar="X", help="Margin m_in of the energy losses.")
@click.option("--margin-aux", type=float, metavar="X", help="Margin m_aux of the energy losses.")
@click.option(
    "--sampler",
    metavar="NAME",
    shell_complete=names("samplers"),
    help="Way to pick outliers: random, greedy, dos, energy or greg+.",
)
@seed(help="Seed of weights, order, shifts and outliers.")
@device
@precision(help="Precision of the passes through the network.")
@click.option(
    "--checkpoint-every",
    "every",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Time between checkpoints within an epoch; after each epoch there is one anyway.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="File to write the weights to (.safetensors).",
)
def train(id_: str, out: Path, **options: Any) -> None:
    """Train a network with one of the objectives; by default the small one on digits 0-5.

    Beside the weights come a JSON with everything about them, digests of the images that it has learnt from, by which
    `oodattack run` tells test images among them, and the training curve as a picture. After an interruption, however
    hard, the same command goes on from the last checkpoint and ends with the same weights.
    """
    from oodattack import job
    from oodattack.job.recipe import FLAGS

    numbers = {name: options.pop(name) for name in FLAGS}
    with bars_on_stderr() as progress:
        done = job.train(job.Training(id=id_, out=out, numbers=numbers, **options), progress=progress)
    click.echo(f"{out}: {done.objective}, accuracy {done.accuracy:.4f} on held-out {done.held_out}")
    for note in done.notes:
        click.echo(note)
