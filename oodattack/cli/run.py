"""`oodattack run`."""

import ctypes
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

from oodattack.cli.names import names, on_networks
from oodattack.cli.options import alone, data_root, device, id_, mean, precision, protocol, seed, std
from oodattack.cli.progress import bars_on_stderr

EXAMPLE = "Example: oodattack run --detector energy@greg --ood far-mix --threat linf-8-255 --out my-run"


@click.command(epilog=EXAMPLE)
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="NAME",
    shell_complete=on_networks,
    help="Detector: NAME or NAME@NETWORK, see `oodattack list detectors`; pkg.mod:callable; or the address of a server "
    "that scores. Repeatable.",
)
@click.option(
    "--threat",
    "threats",
    multiple=True,
    metavar="NAME",
    shell_complete=names("threats", or_file=True),
    help="Threat model: a name, see `oodattack list threats`, or a .toml file; NAME@EPS at another radius. Repeatable.",
)
@id_(help="In-distribution (ID) images: see `oodattack list datasets`.")
@click.option(
    "--ood",
    multiple=True,
    metavar="NAME",
    shell_complete=names("datasets"),
    help="Out-of-distribution (OOD) images: a name, a group such as near, npz:PATH or pkg.mod:callable. Repeatable.",
)
@click.option(
    "--model", metavar="NAME", shell_complete=names("models"), help="Network to use: see `oodattack list models`."
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Weights of the network: .safetensors, .pt or .pth. Repeatable, for an ensemble.",
)
@mean
@std
@click.option(
    "--fit",
    metavar="NAME",
    shell_complete=names("datasets"),
    help="ID images that detectors are fitted on; with labels where one needs them.",
)
@click.option(
    "--id-validation",
    metavar="NAME",
    shell_complete=names("datasets"),
    help="ID images that detectors are tuned on.  [default: those of --fit]",
)
@click.option(
    "--ood-validation",
    metavar="NAME",
    shell_complete=names("datasets"),
    help="OOD images that detectors are tuned on.",
)
@data_root
@protocol
@click.option(
    "--samples", type=click.IntRange(min=2), metavar="N", help="Images per set.  [default: 200 OOD, up to 500 ID]"
)
@seed(help="Seed of the searches and of what is drawn.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Rows attacked at a time.  [default: what fits]"
)
@precision(help="Precision of the search; the result is always scored in full.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Number type of the whole run.",
)
@click.option(
    "--certify",
    is_flag=True,
    help="Compute as well what no attack within linf and l2 threats can beat. Costs about a thousand scoring passes.",
)
@device
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory to write.  [default: oodattack-runs/TIME]",
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
        alone("resume", "as_json")
    from oodattack import job

    with bars_on_stderr() as progress, all_on_stderr() if as_json else nullcontext():
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


@contextmanager
def all_on_stderr() -> Iterator[None]:
    """Nothing reaches standard output: what Python, C code and other processes print there goes to standard error."""
    with redirect_stdout(sys.stderr):
        if sys.__stdout__ is None or sys.__stderr__ is None:  # closed from the start: 1 or 2 may be any file by now
            yield
            return
        stdout = os.dup(1)
        try:
            os.dup2(2, 1)
            yield
            sys.__stdout__.flush()
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what C code still holds back
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
