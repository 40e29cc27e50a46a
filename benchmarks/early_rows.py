"""What is saved when rows end early, and how memory grows with the number of images.

    python -m benchmarks.early_rows --threat NAME --out early.jsonl

Early rows: one detector, one threat model or suite, two OOD sets. In `hard` every row can pass half of the ID scores
and no more; in `early` nine rows in ten sit just above the ID scores and can pass all. Printed: the ratio early / hard
of wall time, of the time in searches and of queries.

The detector is the energy score of a random residual network whose logits are shifted by the mean of the pixels, far
more than the network itself moves them: each pass costs what a network costs, and which rows end early is known.

Peak memory: a process each for 500, 2000 and 8000 images attacked on a tiny network. `image_copies` is what each
further image costs, in images: 1 would be the returned images alone.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import oodattack as oa
from benchmarks import json_lines
from benchmarks.json_lines import Line
from benchmarks.one_attack import device_name
from oodattack.models.small import SmallResNet
from oodattack.threat import Suite, Threat, ThreatModel, members_of, read_threat

EASY = 0.9  # share of OOD rows of the early set that can be hidden
BRIGHTNESS, WIDTH = 0.3, 32
SIZES = 500, 2000, 8000
MIB = 2**20


class Darkness(nn.Module):
    """Logits that rise together as the image darkens, plus a thousandth of a random residual network's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = SmallResNet(3, classes=10, width=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, 10), of images (B, 3, H, W)."""
        return 1e-3 * self.network(x) - 100 * x.mean(dim=(1, 2, 3)).unsqueeze(1)


def reach(threat: Threat) -> float:
    """How far the mean of 32 x 32 x 3 pixels can be moved within the ball."""
    one, pixels = members_of(threat)[0], 3 * 32 * 32
    return one.eps / {"linf": 1, "l2": pixels**0.5, "l1": pixels}[one.norm]


def images(n: int, offset: Tensor, seed: int) -> Tensor:
    """Noise, shape (n, 3, 32, 32), whose mean is `BRIGHTNESS + offset`, (n,), exactly."""
    noise = 0.1 * torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return noise - noise.mean(dim=(1, 2, 3), keepdim=True) + (BRIGHTNESS + offset).view(-1, 1, 1, 1)


def ood_rows(n: int, far: float, *, easy: float, seed: int) -> Tensor:
    """OOD images, brighter than the ID ones by a fifth of `far` for the first `easy` share, else by `far` itself.

    The latter end in the middle of the ID scores at best: never finished, never without hope.
    """
    offset = torch.where(torch.arange(n) < round(easy * n), far / 5, far)
    return images(n, offset, seed)


def run(detector: nn.Module, id: Tensor, x: Tensor, threat: Threat, *, seed: int) -> Line:
    """Seconds of one evaluation and of its searches alone, queries a row, and the AUROC that is left."""
    start = time.perf_counter()
    (result,) = oa.evaluate(detector, id=id, ood={"ood": x}, threats=[threat], seed=seed).results
    line = {"seconds": time.perf_counter() - start, "search_seconds": result.seconds}
    return line | {"queries": result.queries, "auroc": result.attacked.auroc}


def compare(threat: Threat, device: torch.device, *, n: int, seed: int) -> Line:
    """Both sets, one after the other."""
    detector = oa.detectors.Energy(oa.Classifier(Darkness(seed).eval().to(device)))
    far = reach(threat)
    id = images(n, 0.01 * far * torch.linspace(-1, 1, n), seed + 1).to(device)
    sets = {name: ood_rows(n, far, easy=e, seed=seed + 2).to(device) for name, e in (("hard", 0.0), ("early", EASY))}
    found = {name: run(detector, id, x, threat, seed=seed) for name, x in sets.items()}
    ratios = {
        what: round(found["early"][what] / found["hard"][what], 4) for what in ("seconds", "search_seconds", "queries")
    }
    rounded = {name: {key: round(value, 4) for key, value in line.items()} for name, line in found.items()}
    line = {"benchmark": "early_rows", "threat": threat.name, "n": n, "early_share": EASY}
    return line | {"device": device_name(device)} | rounded | {"ratio": ratios}


def short(threat: Threat, queries: int) -> ThreatModel:
    """The first threat model of a suite with few queries: memory does not depend on their number."""
    one = threat.members[0] if isinstance(threat, Suite) else threat
    return one.model_copy(update={"queries": queries, "restarts": 1})


def memory(threat: Threat, n: int, *, seed: int) -> Line:
    """Peak memory of this process before and during an evaluation of n OOD images (and 100 ID images), MiB."""
    detector = oa.detectors.Energy(oa.Classifier(SmallResNet(3, classes=10, width=4).eval()))
    random = torch.Generator().manual_seed(seed)
    x, id = (torch.rand(k, 3, 32, 32, generator=random) for k in (n, 100))
    small = short(threat, 5)
    run(detector, id[:50], x[:256], small, seed=seed)  # libraries, threads and buffers of a full block are there now
    before = peak()
    run(detector, id, x, small, seed=seed)
    size = x.numel() * x.element_size() / MIB
    line = {"benchmark": "peak_memory", "threat": threat.name, "n": n, "images_mib": round(size, 1)}
    return line | {"before_mib": round(before, 1), "peak_mib": round(peak(), 1)}


def peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (MIB if sys.platform == "darwin" else 1024)


def copies(lines: list[Line]) -> Line:
    """What a further image costs, in images, between the two largest sets: buffers of a block are full by then."""
    first, last = lines[-2:]
    grown = last["peak_mib"] - first["peak_mib"]
    line = {"benchmark": "memory_growth", "n": [first["n"], last["n"]]}
    return line | {"image_copies": round(grown / (last["images_mib"] - first["images_mib"]), 2)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threat", default="flagship", help="threat model or suite that hides OOD inputs")
    parser.add_argument("--n", type=int, default=1000, help="images a set")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="of the first comparison")
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=int, help="measure the memory of this many images in this process, print a line")
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    args = parser.parse_args(arguments)
    threat = read_threat(args.threat)
    if args.peak:
        json_lines.append(None, memory(threat, args.peak, seed=args.seed))
        return
    json_lines.append(args.out, compare(threat, args.device, n=args.n, seed=args.seed))
    lines = []
    for n in args.sizes:  # a process each: peak memory never falls
        command = [sys.executable, "-m", "benchmarks.early_rows", "--threat", args.threat, "--seed", str(args.seed)]
        done = subprocess.run([*command, "--peak", str(n)], stdout=subprocess.PIPE, text=True, check=True)
        lines.append(json_lines.parse(done.stdout)[-1])
        json_lines.append(args.out, lines[-1])
    if len(lines) > 1:
        json_lines.append(args.out, copies(lines))


if __name__ == "__main__":
    main()
