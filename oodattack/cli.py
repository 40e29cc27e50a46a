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
NUMBERS = (  # of a recipe
    "epochs", "lr", "batch_size", "weight", "weight_decay", "penalty", "margin_id", "margin_aux", "sampler",
)  # fmt: skip
KINDS = ["detectors", "threats", "attacks", "datasets", "objectives", "recipes", "models"]
EXAMPLE = {
    "run": "Example: oodattack run --detector energy@greg --ood far-mix --threat linf-8-255 --out my-run",
    "list": "Example: oodattack list threats --json",
    "verify": "Example: oodattack verify my-run",
    "gallery": "Example: oodattack gallery my-run --worst 4 --class 3",
    "check": "Example: oodattack check my-run --baseline baseline.json --junit check.xml",
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
@click.option("--model", metavar="NAME", help="Network: see `oodattack list models`.")
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
@click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of downloaded data sets.")
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
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on with the run in DIR, whatever ended it; takes no other option but --json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print report.json on standard output, and nothing else there.")
def run(as_json: bool, id_: str, resume: Path | None, **options: Any) -> None:
    """Stress-test detectors: clean numbers beside numbers under attack.

    Without options, runs nine detectors on four small networks (trained on first use) against digits 6-9 and a mix of
    photographs, noise, spirals and checkerboards, and writes report.json, report.html and contact sheets.
    """
    if resume is not None:
        _alone("resume", "as_json")
    from oodattack import job

    with _progress() as progress, redirect_stdout(sys.stderr) if as_json else nullcontext():
        if resume is None:
            asked = job.Job(id=id_, command=shlex.join(["oodattack", *sys.argv[1:]]), **options)
            report, folder = job.run(asked, progress=progress)
        else:
            report, folder = job.resume(resume, progress=progress)
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes, started by torchrun, one prints
    if as_json:
        click.echo(report.json_text(), nl=False)
        return
    report.table()
    click.echo(
        f"\n{folder / 'report.html'}: everything above and more.  {folder / 'report.json'}: the same as data.  "
        f"{folder / 'sheets'}: a contact sheet per cell."
    )


def _alone(*allowed: str) -> None:
    """Refuse options beside those that may be given together."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name not in allowed and context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"`--{allowed[0]}` must stand alone, got {option.opts[0]} too. The plan of the run has all options",
                context,
            )


@cli.command("list", epilog=EXAMPLE["list"])
@click.argument("what", type=click.Choice(KINDS))
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
    if what == "recipes":
        from oodattack.job.training import recipes

        return recipes()
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
@click.option("--objective", metavar="NAME", help="See `oodattack list objectives`.")
@click.option(
    "--recipe", metavar="NAME", help="See `oodattack list recipes`.  [default: that named like the objective]"
)
@click.option("--id", "id_", default="digits", show_default=True, metavar="NAME", help="Labelled ID images.")
@click.option("--aux", metavar="NAME", help="Outliers to train with: a name, npz:PATH or pkg.mod:callable.")
@click.option("--model", default="small", show_default=True, metavar="NAME", help="See `oodattack list models`.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Fine-tune these.")
@click.option("--mean", callback=_numbers, metavar="A,B,C", help="What it subtracts a channel, [0, 1] units.")
@click.option("--std", callback=_numbers, metavar="A,B,C", help="What it divides by.")
@click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR", help="Folder of downloaded data sets.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="ID images to train on.  [default: all]")
@click.option("--epochs", type=int, metavar="N", help="This and what follows: in place of the recipe's.")
@click.option("--lr", type=float, metavar="X", help="Highest learning rate.")
@click.option("--batch-size", type=int, metavar="N", help="ID images a step.")
@click.option("--weight", type=float, metavar="X", help="Factor of the objective's own term.")
@click.option("--weight-decay", type=float, metavar="X", help="Of the optimiser.")
@click.option("--gradient-term", "penalty", type=float, metavar="X", help="Factor of GReg's gradient term.")
@click.option("--margin-id", type=float, metavar="X", help="m_in of the energy losses.")
@click.option("--margin-aux", type=float, metavar="X", help="m_aux of the energy losses.")
@click.option("--sampler", metavar="NAME", help="What picks outliers: random, greedy, dos, energy or greg+.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of weights, order, shifts and outliers.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, mps.")
@click.option(
    "--precision",
    type=click.Choice(["full", "bfloat16"]),
    default="full",
    show_default=True,
    help="Of the passes through the network.",
)
@click.option(
    "--checkpoint-every",
    "every",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Within an epoch; after each there is one anyway.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to put the weights (.safetensors).",
)
def train(id_: str, out: Path, **options: Any) -> None:
    """Train a network with one of the objectives; by default the small one on digits 0-5.

    Beside the weights come a JSON with everything about them and the training curve as a picture. When it was
    interrupted, however hard, the same command goes on from the last checkpoint and ends with the same weights.
    """
    from oodattack import job
    from oodattack.job.training import Training

    numbers = {name: options.pop(name) for name in NUMBERS}
    with _progress() as progress:
        done = job.train(Training(id=id_, out=out, numbers=numbers, **options), progress=progress)
    click.echo(f"{out}: {done.objective}, accuracy {done.accuracy:.4f} on held-out {done.held_out}")
    for note in done.notes:
        click.echo(note)


@cli.command(epilog=EXAMPLE["verify"])
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def verify(folder: Path) -> None:
    """Compute the report of a finished run again from its saved images, without the attacks.

    Hashes of all files; images in the box and within the radius; scores by the detectors loaded afresh, of the images
    exact and in 8 bits; every metric. Prints claimed against recomputed, and ends with 1 at the first difference.
    """
    from oodattack import job

    lines, failed = 0, ""
    try:
        for line in job.verify(folder):
            lines += 1
            click.echo(f"{'same     ' if line.agree else 'DIFFERENT'}  {line.what}: {line.claimed} | {line.found}")
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


@cli.command(epilog=EXAMPLE["check"])
@click.argument("report", type=click.Path(path_type=Path), metavar="REPORT")
@click.option(
    "--baseline", type=click.Path(path_type=Path), required=True, metavar="FILE", help="What --update wrote earlier."
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.02,
    show_default=True,
    metavar="X",
    help="Largest drop of an AUROC that is let pass.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.01,
    show_default=True,
    metavar="X",
    help="How often noise alone may fail the check.",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML too.")
@click.option(
    "--format", "as_", type=click.Choice(["text", "github"]), default="text", show_default=True, help="Of the output."
)
@click.option("--update", is_flag=True, help="Make REPORT the baseline, and compare nothing.")
def check(
    report: Path, baseline: Path, max_drop: float, alpha: float, junit: Path | None, as_: str, update: bool
) -> None:
    """Is a report worse than the baseline by more than noise? Exit code 1 if it is.

    REPORT is a run directory, or a report.json: inside its run directory, where the scores of single images are, the
    test is paired. A clean or attacked AUROC fails when it is lower by more than --max-drop and noise does not explain
    it, with the number of AUROCs taken into account.
    """
    from oodattack import gate

    found = gate.measured(report)
    if update:
        found.save(baseline)
        kept = "with the scores of their images" if found.scores else "without scores: comparisons will be unpaired"
        click.echo(f"{baseline}: {len(found.cells)} cells {kept}")
        return
    compared = gate.compare(found, gate.read_baseline(baseline), max_drop=max_drop, alpha=alpha)
    if junit is not None:
        gate.save_junit(compared, junit)
    for line in gate.FORMATS[as_](compared):
        click.echo(line)
    if compared.regressions:
        raise click.exceptions.Exit(1)


@cli.command(epilog=EXAMPLE["gallery"])
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--worst", type=click.IntRange(min=1), default=8, show_default=True, metavar="K", help="Rows a cell.")
@click.option(
    "--class", "class_", type=click.IntRange(min=0), metavar="C", help="Only adversarial images predicted as class C."
)
@click.option(
    "--judge", metavar="NAME", help="Detector of the run that says what looks ID.  [default: distance in pixels]"
)
def gallery(folder: Path, **options: Any) -> None:
    """Show what the attacks of a finished run made: contact sheets of the worst rows, and a page around them.

    Target, start, adversarial image, magnified difference, scores, predicted class and MAPE; a warning where an attack
    has made what looks like an ID image.
    """
    from oodattack import job

    click.echo(f"{job.gallery(folder, **options)}: contact sheets of every cell")


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
        done = cli.main(argv, prog_name="oodattack", standalone_mode=False)
    except click.exceptions.Abort as stop:
        return _say(str(stop.__cause__ or "") or "interrupted", 130)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "interrupted", 130)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.1 has no such class: it prints the help itself
            click.echo(error.format_message())
            return 2
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "oodattack"
        return _say(f"{error.format_message().rstrip('.')}. See `{command} --help`.", 2)
    except (ValueError, FloatingPointError) as error:
        return _say(" ".join(str(error).split()), 2)
    return done if isinstance(done, int) else 0


def _say(message: str, code: int) -> int:
    click.echo(f"oodattack: {message}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
