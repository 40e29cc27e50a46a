"""Peak memory of `oodattack run` against the number of rows, and what a second process saves.

    python -m benchmarks.many_rows memory --sizes 1000,10000,100000 --out benchmarks/results/many_rows.jsonl
    python -m benchmarks.many_rows processes --n 2000 --rounds 3 --out benchmarks/results/many_rows.jsonl

Each run is a process of its own, the command line as users have it: as many ID as OOD images of noise, 3 x 32 x 32, in
uncompressed .npz files; a tiny network; both sides attacked. Memory: the largest resident size that the system saw, and
what a further row costs between the two largest sizes, beside the bytes of one image as the detector sees it.
Processes: one, then two by torchrun with a thread each, in turns; ratio of wall times within a round, of the whole run
and of its search alone. Both write the same report, which is checked.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import json_lines
from benchmarks.json_lines import Line

THREAT = """
norm = "linf"
eps = "8/255"
aim = "both"
start = "ood"
init = "ball"
attack = "apgd"
objective = "score"
queries = {queries}
restarts = 1
iterate = "best"
source = "benchmark"
"""
CODE = """
import torch
from torch import nn
import oodattack as oa

def tiny():
    torch.manual_seed(0)
    width = {width}
    layers = nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU()
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return oa.detectors.Energy(oa.Classifier(net.eval()))
"""
ROW = 3 * 32 * 32 * 4  # bytes of an image in single precision


def place(folder: Path, n: int, *, queries: int, width: int) -> None:
    """The files of a run of n rows a side."""
    random = np.random.default_rng(0)
    for name in ("id", "ood"):
        np.savez(folder / f"{name}.npz", images=random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))
    (folder / "quick.toml").write_text(THREAT.format(queries=queries))
    (folder / "tiny.py").write_text(CODE.format(width=width))


def run(folder: Path, n: int, *, processes: int = 1) -> Line:
    """Seconds and peak memory of one run."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
    words = f"oodattack run --id npz:id.npz --ood npz:ood.npz --detector tiny:tiny --threat quick.toml --samples {n}"
    out = f"out-{processes}"
    begun = time.perf_counter()
    child = subprocess.Popen(
        [*start, *words.split(), "--out", out],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the run of {n} rows ended with {os.waitstatus_to_exitcode(status)}")
    (result,) = json.loads((folder / out / "report.json").read_text())["results"]
    seconds = {"seconds": round(time.perf_counter() - begun, 2), "search_seconds": round(result["seconds"], 2)}
    return seconds | {"peak_mib": round(used.ru_maxrss / 1024, 1), "auroc": result["attacked"]["auroc"]}


def memory(sizes: list[int], out: Path | None) -> None:
    """One line a size, and what a further row costs."""
    lines = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            place(Path(folder), n, queries=5, width=4)
            lines.append({"benchmark": "rows_memory", "n": n, "images_mib": round(2 * n * ROW / 2**20, 1)})
            lines[-1] |= run(Path(folder), n)
        json_lines.append(out, lines[-1])
    first, last = lines[-2:]
    grown = (last["peak_mib"] - first["peak_mib"]) * 2**20 / (2 * (last["n"] - first["n"]))
    line = {"benchmark": "rows_growth", "n": [first["n"], last["n"]], "bytes_a_row": round(grown), "image": ROW}
    json_lines.append(out, line)


def processes(n: int, rounds: int, out: Path | None) -> None:
    """One line a round."""
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            place(Path(folder), n, queries=60, width=32)
            found = {count: run(Path(folder), n, processes=count) for count in ((1, 2), (2, 1))[i % 2]}
        if found[1]["auroc"] != found[2]["auroc"]:
            raise SystemExit(f"one process says {found[1]['auroc']}, two say {found[2]['auroc']}")
        ratios = {what: round(found[2][what] / found[1][what], 3) for what in ("seconds", "search_seconds")}
        own = {"one": found[1], "two": found[2], "ratio": ratios}
        json_lines.append(out, {"benchmark": "rows_processes", "n": n, "round": i} | own)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "processes"])
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[1000, 10000, 100000])
    parser.add_argument("--n", type=int, default=2000, help="rows a side, for processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    args = parser.parse_args(arguments)
    if args.what == "memory":
        memory(args.sizes, args.out)
    else:
        processes(args.n, args.rounds, args.out)


if __name__ == "__main__":
    main()
