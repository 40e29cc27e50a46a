"""SIGKILL at random moments: does the resumed run end with the same report, bit for bit?

    python -m benchmarks.kill_test --kills 20 --out benchmarks/results/kill_test.jsonl

The run is the embedded default made small: digits, two detectors, two OOD sets, a threat model and a suite whose
members share a budget. Each trial starts in an empty folder, is killed between its first file and its end, goes on with
`oodattack run --resume`, and is compared with the run that nobody killed: report.json but for timings and the date, and
the hash of every file of evidence.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import json_lines

LIMITS = """
norm = "linf"
eps = "8/255"
aim = "hide"
start = "ood"
init = "ball"
restarts = 1
iterate = "best"
source = "test"
"""
QUICK = f"""{LIMITS}
objective = "score"
attack = "apgd"
queries = 12
"""
SUITE = f"""{LIMITS}
queries = 40

[[members]]
name = "score"
attack = "apgd"
objective = "score"
queries = 8

[[members]]
name = "latent"
attack = "apgd"
objective = "latent"
queries = 8

[[members]]
name = "fmn"
aim = "cross"
attack = "fmn"
init = "clean"
queries = 8

[[members]]
name = "square"
attack = "square"
objective = "score"
queries = 10
"""
WORDS = [
    "run", "--detector", "energy@ce", "--detector", "si-z@ce", "--threat", "quick.toml", "--threat", "suite.toml",
    "--samples", "4", "--ood", "digits-6-9", "--ood", "noise", "--batch-size", "2", "--out", "run",
]  # fmt: skip
RESUME = ["run", "--resume", "run"]
ASIDE = ("created", "seconds")


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """The command as a process in a folder, which gets the threat files."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "quick.toml").write_text(QUICK)
    (folder / "suite.toml").write_text(SUITE)
    package = str(Path(__file__).parents[1])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
    command = [sys.executable, "-m", "oodattack", *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(words: list[str], folder: Path) -> float:
    """Run the command to its end; seconds from the moment when the plan was there."""
    process = start(words, folder)
    wait_for_plan(process, folder)
    begin = time.perf_counter()
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}: {told}")
    return time.perf_counter() - begin


def wait_for_plan(process: subprocess.Popen[str], folder: Path) -> None:
    """Until plan.json is there, or the process has ended."""
    while not (folder / "run" / "plan.json").exists() and process.poll() is None:
        time.sleep(0.01)


def kill(words: list[str], folder: Path, *, after: float) -> int | None:
    """SIGKILL that many seconds after the plan is there; blocks in the journal then, None if the run had ended."""
    process = start(words, folder)
    wait_for_plan(process, folder)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return len(list((folder / "run" / "journal").glob("*.block")))
    process.communicate()
    return None


def result(folder: Path) -> tuple[object, dict[str, str]]:
    """The report without what a clock says, and the hash of every file of evidence."""
    manifest = json.loads((folder / "run" / "manifest.json").read_text())["files"]
    hashes = {
        name: digest for name, digest in manifest.items() if name not in ("report.json", "report.html", "plan.json")
    }
    return without(json.loads((folder / "run" / "report.json").read_text())), hashes


def without(node: object) -> object:
    """A JSON value without the fields that a clock decides."""
    if isinstance(node, dict):
        return {key: without(value) for key, value in node.items() if key not in ASIDE}
    return [without(value) for value in node] if isinstance(node, list) else node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        finish(WORDS, Path(place) / "first")  # networks are trained now, if they never were
        seconds = finish(WORDS, whole)
        done = trial = 0
        while done < args.kills:
            trial += 1
            folder = Path(place) / f"trial-{trial}"
            after = draw.uniform(0, seconds)
            blocks = kill(WORDS, folder, after=after)
            if blocks is None:
                continue  # too late: it had ended
            done += 1
            resumed = finish(RESUME, folder)
            same, files = (a == b for a, b in zip(result(folder), result(whole), strict=True))
            line = {"kill": done, "after": round(after, 2), "of": round(seconds, 2), "blocks": blocks}
            line |= {"resumed_seconds": round(resumed, 2), "report_equal": same, "evidence_equal": files}
            json_lines.append(args.out, line)


if __name__ == "__main__":
    main()
