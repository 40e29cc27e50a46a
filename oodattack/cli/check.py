"""`oodattack check`."""

from os.path import realpath
from pathlib import Path

import click

EXAMPLE = "Example: oodattack check my-run --baseline baseline.json --junit check.xml"


@click.command(epilog=EXAMPLE)
@click.argument("report", type=click.Path(path_type=Path), metavar="REPORT")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Baseline to compare with, or to write with --update.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.02,
    show_default=True,
    metavar="X",
    help="Largest drop of an AUROC that passes.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.01,
    show_default=True,
    metavar="X",
    help="How often noise alone may fail the check.",
)
@click.option(
    "--accept-inconclusive",
    is_flag=True,
    help="Pass where an attack looks as if it had failed, and did not in the baseline.",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the result as JUnit XML, too.")
@click.option(
    "--format",
    "as_",
    type=click.Choice(["text", "github"]),
    default="text",
    show_default=True,
    help="Format of the output.",
)
@click.option("--update", is_flag=True, help="Make REPORT the baseline, and compare nothing.")
def check(
    report: Path,
    baseline: Path,
    max_drop: float,
    alpha: float,
    accept_inconclusive: bool,
    junit: Path | None,
    as_: str,
    update: bool,
) -> None:
    """Is a report worse than the baseline by more than noise? Exit code 1 if it is.

    REPORT is a run directory or a report.json. Where the report lies in its run directory, with the scores of single
    images, the test is paired. A clean or attacked AUROC fails when it lost more than --max-drop and noise does not
    explain the loss, with the number of AUROCs taken into account. So does an attack that is inconclusive now and was
    not in the baseline: a higher AUROC may be a search that fails.
    """
    from oodattack import gate

    if junit is not None and update:
        raise ValueError("`--junit` must go with a comparison, got it with --update. Drop one of them.")
    if realpath(baseline) in map(realpath, (report, report / "report.json")):
        raise ValueError(
            f"`--baseline` must be another file than REPORT, got {str(baseline)!r} twice. Name an earlier one."
        )
    others = (baseline, report, report / "report.json")
    if junit is not None and realpath(junit) in map(realpath, others):
        raise ValueError(f"`--junit` must be a file of its own, got {str(junit)!r} twice. Choose another.")
    if update:
        found = gate.measured(report)
        before = gate.replaced(baseline)
        found.save(baseline)
        kept = "with the scores of their images" if found.scores else "without scores: comparisons will be unpaired"
        click.echo(f"{baseline}: {len(found.cells)} cells {kept}")
        for line in gate.left_out(found, before):
            click.echo(f"note: {line}")
        return
    try:
        compared = gate.compare(
            gate.measured(report),
            gate.read_baseline(baseline),
            max_drop=max_drop,
            alpha=alpha,
            accept_inconclusive=accept_inconclusive,
        )
    except (ValueError, OSError) as error:
        if junit is not None:
            gate.save_junit(error, junit)  # else an earlier one would stay
        raise
    if junit is not None:
        gate.save_junit(compared, junit)
    for line in gate.FORMATS[as_](compared):
        click.echo(line)
    if compared.failed:
        raise click.exceptions.Exit(1)
