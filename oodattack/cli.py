"""Command line: a function a command. The only place that reads argv and prints."""

import os
import shlex
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = click.IntRange(0, 2**63 - 1)  # what a random generator takes
EXAMPLE = {
    "run": "Example: oodattack run --detector energy@greg --ood far-mix --threat linf-8-255 --out my-run",
    "list": "Example: oodattack list threats --json",
    "train": "Example: oodattack train --objective greg+ --out greg-plus.safetensors",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="oodattack")
def cli() -> None:
    r"""How much of its AUROC is left when somebody works against your out-of-distribution detector?

    \b
    oodattack run                     the embedded default: digits, nine detectors, four threats
    oodattack list threats            what there is to choose from
    """


def _numbers(_context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Read "0.49,0.48,0.45"."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"must be numbers with commas between, got {value!r}", param=option) from None


@cli.command(epilog=EXAMPLE["run"])
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="NAME",
    help="Detector, NAME@NETWORK, or pkg.mod:callable. Repeatable.",
)
@click.option("--threat", "threats", multiple=True, metavar="NAME", help="Threat model, or a .toml file. Repeatable.")
@click.option("--id", "id_", default="digits", show_default=True, metavar="NAME", help="In-distribution images.")
@click.option(
    "--ood", multiple=True, metavar="NAME", help="OOD images: a name, npz:PATH or pkg.mod:callable. Repeatable."
)
@click.option("--model", metavar="NAME", help="Network: small, torchvision:NAME or pkg.mod:callable.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Its weights: .safetensors, .pt or .pth. Repeatable, for an ensemble.",
)
@click.option("--mean", callback=_numbers, metavar="A,B,C", help="What it subtracts a channel, [0, 1] units.")
@click.option("--std", callback=_numbers, metavar="A,B,C", help="What it divides by.")
@click.option("--fit", metavar="NAME", help="Labelled ID images that detectors are fitted on.")
@click.option("--ood-validation", metavar="NAME", help="OOD images that detectors may be tuned on.")
@click.option(
    "--samples", type=click.IntRange(min=2), metavar="N", help="Images per set.  [default: 200 OOD, up to 500 ID]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the searches and of what is drawn.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Rows attacked at a time.  [default: what fits]"
)
@click.option(
    "--precision",
    type=click.Choice(["full", "bfloat16"]),
    default="full",
    show_default=True,
    help="Of the search; the result is always scored in full.",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True, help="Of everything."
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, mps.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run directory.  [default: oodattack-runs/TIME]"
)
@click.option("--json", "as_json", is_flag=True, help="Print report.json on standard output, and nothing else there.")
def run(as_json: bool, id_: str, **options: Any) -> None:
    """Stress-test detectors: clean numbers beside numbers under attack.

    Without options, runs nine detectors on four small networks (trained on first use) against digits 6-9 and a mix of
    photographs, noise, spirals and checkerboards, and writes report.json and contact sheets.
    """
    from oodattack import job

    with _progress() as progress, redirect_stdout(sys.stderr) if as_json else nullcontext():
        asked = job.Job(id=id_, command=shlex.join(["oodattack", *sys.argv[1:]]), **options)
        report, folder = job.run(asked, progress=progress)
    if as_json:
        click.echo(report.json_text(), nl=False)
        return
    report.table()
    click.echo(
        f"\n{folder / 'report.json'}: everything above and more.  {folder / 'sheets'}: a contact sheet per cell."
    )


@cli.command("list", epilog=EXAMPLE["list"])
@click.argument("what", type=click.Choice(["detectors", "threats", "attacks", "datasets", "objectives", "models"]))
@click.option("--json", "as_json", is_flag=True, help="A JSON list of objects.")
def list_(what: str, as_json: bool) -> None:
    """What there is to choose from, with its source."""
    rows = _rows(what)
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=what, title_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def _rows(what: str) -> list[dict[str, str]]:
    """name, source and description of everything of a kind."""
    if what == "threats":
        from oodattack.evaluation.cell import direction
        from oodattack.threat import presets, read_threat

        read = [read_threat(name) for name in presets()]
        return [{"name": t.name, "direction": direction(t), "source": t.source} for t in read]
    from oodattack import attacks, data, detectors, models, objectives

    tables: dict[str, Any] = {
        "detectors": detectors.DETECTORS,
        "attacks": attacks.ATTACKS,
        "datasets": data.DATASETS,
        "objectives": objectives.OBJECTIVES,
        "models": models.MODELS,
    }
    rows = [{"name": row.name, "description": row.description, "source": row.source} for row in tables[what].values()]
    return rows + attacks.outside() if what == "attacks" else rows


@cli.command(epilog=EXAMPLE["train"])
@click.option("--objective", required=True, metavar="NAME", help="See `oodattack list objectives`.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, order and shifts.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to put the weights (.safetensors).",
)
def train(objective: str, seed: int, out: Path) -> None:
    """Train the small network on digits 0-5 with one of the objectives."""
    from oodattack import job

    with _progress() as progress:
        accuracy = job.train(objective, seed=seed, out=out, progress=progress)
    click.echo(f"{out}: {objective}, accuracy {accuracy:.4f} on held-out digits 0-5")


@contextmanager
def _progress() -> "Iterator[Callable[[str, int, int], None] | None]":
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


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 a regression or failed verification, 2 wrong use, 130 interrupted."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for one another by spinning make a run up to 50 times slower when something else shares
        # the cores; giving up after 1000 turns costs about a tenth on a quiet machine. Read when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        cli.main(argv, prog_name="oodattack", standalone_mode=False)
    except click.exceptions.Abort:
        return _say("interrupted", 130)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.1 has no such class: it prints the help itself
            click.echo(error.format_message())
            return 2
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "oodattack"
        return _say(f"{error.format_message().rstrip('.')}. See `{command} --help`.", 2)
    except (ValueError, FloatingPointError) as error:
        return _say(" ".join(str(error).split()), 2)
    return 0


def _say(message: str, code: int) -> int:
    click.echo(f"oodattack: {message}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
