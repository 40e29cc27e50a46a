"""Passes that Algorithm 1 of Liang et al. (arXiv:2009.08016) and other solvers need to match a latent.

    python -m benchmarks.matching --data FOLDER --out matching.jsonl
    python -m benchmarks.matching --table matching.jsonl

The problem: bring f(x) onto the latent of a CIFAR-10 test image, within an l2 ball around a start and the box. A pass
is one forward and backward. Every solver gets the same passes and the same rows; a row is done at a MAPE of 0.01 %.
Reference: Algorithm 1 as printed, Adamax with learning rate eps/100 from the sphere; the others start at the input.
`passes_to_reference` is when a solver's median MAPE first reaches what the reference ends at; for the reference it is
when that happened. `continued`: rows that stopped by themselves, searched on with three times the passes and no reason
to stop; `gain` is what share of their MAPE that removed. FOLDER: as in `cifar_data` and `cifar_networks`, and
`mnist_test.npz`.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import cifar_data, cifar_networks, json_lines
from benchmarks.json_lines import Line
from oodattack.aims import close_enough, mape, match
from oodattack.attack import STOPPED, Attack, Found, maximise
from oodattack.attacks import adamax, apgd, lbfgs, pgd_decay
from oodattack.geometry import row_random
from oodattack.threat import read_threat

REFERENCE = "adamax eps/100"
SOLVERS: dict[str, Callable[[], Attack]] = {
    REFERENCE: lambda: adamax(step_size=1 / 100),
    "adamax eps/30": lambda: adamax(step_size=1 / 30),
    "adamax eps/300": lambda: adamax(step_size=1 / 300),
    "adamax eps/1000": lambda: adamax(step_size=1 / 1000),
    "apgd": apgd,
    "lbfgs": lbfgs,
    "pgd-decay": pgd_decay,
}
MARKS = 25, 50, 100, 200, 500, 1000
POOL = 500  # ID images among which the nearest target is looked for


class Latents(nn.Module):
    """What to match: "logits"; "features", what the last layer sees; "blocks", channel means after every block."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind, self.seen = network, kind, []
        names = dict(network.named_modules())
        if kind == "features":
            last = next(m for m in reversed(names.values()) if isinstance(m, nn.Linear))
            last.register_forward_pre_hook(lambda _m, inputs: self.seen.append(inputs[0]))
        elif kind == "blocks":
            for module in names.values():
                if type(module).__name__ in ("Block", "Dense"):
                    module.register_forward_hook(lambda _m, _i, out: self.seen.append(out.mean(dim=(2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, D)."""
        self.seen.clear()
        logits = self.network(x)
        return logits if self.kind == "logits" else torch.cat(self.seen, dim=1)


def starts(kind: str, folder: Path, *, n: int, seed: int) -> Tensor:
    """n images of `cifar_data.ood_images`, or "digits": MNIST on black, 32 x 32 x 3."""
    if kind != "digits":
        return cifar_data.ood_images(kind, folder, n=n, seed=seed)
    with np.load(folder / "mnist_test.npz") as arrays:
        images = arrays["images"][cifar_data.order(len(arrays["images"]), n, seed).numpy()]
    digits = torch.from_numpy(images).float().view(n, 1, 28, 28) / 255
    return F.pad(digits, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()


def targets(f: nn.Module, x: Tensor, kind: str, folder: Path, *, seed: int) -> Tensor:
    """Latents of "random" ID images, or of the "nearest" one of `POOL` in the latent's l2 distance; (B, D)."""
    images = cifar_data.id_images(folder, n=POOL, seed=seed).targets
    with torch.no_grad():
        z = torch.cat([f(rows) for rows in images.split(100)])
        return z[: len(x)] if kind == "random" else z[torch.cdist(f(x), z).argmin(dim=1)]


def search(f: nn.Module, x: Tensor, z: Tensor, solver: str, args: argparse.Namespace) -> tuple[Found, Tensor]:
    """The search, and the best MAPE so far of each row after each pass, (queries, B)."""
    init = "sphere" if solver.startswith("adamax") else "clean"
    changes = {"eps": args.eps, "queries": args.queries, "init": init}
    threat = read_threat("liang-latent").model_copy(update=changes)
    best, passes = torch.full((args.queries, len(x)), torch.inf), torch.zeros(len(x), dtype=torch.long)

    def watched(points: Tensor) -> Tensor:
        watched.out = f(points)
        return watched.out

    def loss(points: Tensor, rows: Tensor) -> Tensor:
        value = match(watched, z)(points, rows)
        best[passes[rows], rows] = mape(z[rows], watched.out.detach())
        passes[rows] += 1
        return value

    random = row_random(args.seed, solver, range(len(x)), "cpu", x.dtype)
    attack = lbfgs(patience=args.patience) if solver == "lbfgs" else SOLVERS[solver]()
    found = maximise(loss, x, threat, attack, random, keep_clean=False, enough=close_enough(z))
    return found, best.cummin(dim=0).values


def describe(found: Found, best: Tensor) -> Line:
    """Numbers of one search; MAPE in percent."""
    last = 100 * best[-1]
    return {
        "median_mape": {str(q): round(100 * best[q - 1].median().item(), 4) for q in MARKS if q <= len(best)},
        "best_median_mape": round(last.median().item(), 4),
        "worst_mape": round(last.max().item(), 4),
        "reached_0.1": round((last <= 0.1).double().mean().item(), 3),
        "reached_1": round((last <= 1).double().mean().item(), 3),
        "median_passes": found.queries.double().median().item(),
        "stopped": dict(Counter(STOPPED[i] for i in found.stopped.tolist())),
    }


def passes_to(best: Tensor, level: float) -> int | None:
    """Passes after which the median MAPE is first at or below `level`."""
    there = (best.median(dim=1).values <= level).nonzero()
    return int(there[0]) + 1 if len(there) else None


def continued(f: nn.Module, x: Tensor, z: Tensor, found: Found, best: Tensor, args: argparse.Namespace) -> Line:
    """What rows that stopped by themselves would have gained."""
    gave_up = (found.stopped > 1).nonzero().flatten()
    if not len(gave_up):
        return {}
    longer = argparse.Namespace(**{**vars(args), "queries": 3 * args.queries, "patience": 10**6})
    _, on = search(f, x[gave_up], z[gave_up], "lbfgs", longer)
    gain = 1 - on[-1] / best[-1, gave_up]
    line = {"rows": len(gave_up), "gain_median": round(gain.median().item(), 4)}
    return {"continued": line | {"gain_max": round(gain.max().item(), 4)}}


def pair(network: str, start: str, target: str, args: argparse.Namespace) -> None:
    """All solvers on one network, start and kind of target, a line each."""
    f = Latents(cifar_networks.load(network, args.data).requires_grad_(False), args.latent).eval()
    x = starts(start, args.data, n=args.rows, seed=args.seed)
    z = targets(f, x, target, args.data, seed=args.seed)
    what = {"network": network, "latent": args.latent, "dims": z.shape[1], "start": start, "target": target}
    what |= {"eps": args.eps, "rows": args.rows, "queries": args.queries, "seed": args.seed}
    level = None
    for solver in [REFERENCE, *(s for s in args.solvers if s != REFERENCE)]:
        found, best = search(f, x, z, solver, args)
        level = best[-1].median().item() if level is None else level
        line = what | {"solver": solver} | describe(found, best) | {"passes_to_reference": passes_to(best, level)}
        if solver == "lbfgs" and args.continued:
            line |= continued(f, x, z, found, best, args)
        json_lines.append(args.out, line)


def table(lines: list[Line]) -> str:
    """Markdown, a row a line."""
    head = (
        "network, latent | start, target | eps | seed | solver | 25 | 50 | 100 | 200 | best | <= 0.1 % | to reference"
    )
    rows = [head, " | ".join(["---"] * head.count(" | ")) + " | ---"]
    for line in lines:
        marks = [f"{line['median_mape'].get(str(q), float('nan')):.2f}" for q in MARKS[:4]]
        cells = [f"{line['network']}, {line['latent']} ({line['dims']})", f"{line['start']}, {line['target']}"]
        cells += [f"{line['eps']:g}", str(line["seed"]), line["solver"], *marks, f"{line['best_median_mape']:.3f}"]
        rows.append(" | ".join([*cells, f"{line['reached_0.1']:.2f}", str(line["passes_to_reference"] or "never")]))
    return "\n".join(f"| {row} |" for row in rows)


def _names(text: str) -> list[str]:
    return text.split(",")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with arrays and weights")
    parser.add_argument("--networks", type=_names, default=["resnet20", "resnet32"])
    parser.add_argument("--latent", choices=("features", "logits", "blocks"), default="features")
    parser.add_argument("--starts", type=_names, default=["noise", "textures", "digits"])
    parser.add_argument("--targets", type=_names, default=["random", "nearest"])
    parser.add_argument("--solvers", type=_names, default=list(SOLVERS), help="beside the reference")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=10.0)
    parser.add_argument("--patience", type=int, default=2, help="of lbfgs")
    parser.add_argument("--continued", action="store_true", help="search on where lbfgs gave up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    parser.add_argument("--table", type=Path, help="print a table of these JSON lines and end")
    args = parser.parse_args(arguments)
    if args.table:
        print(table(json_lines.read(args.table)))
        return
    torch.set_num_threads(1)
    for network in args.networks:
        for start in args.starts:
            for target in args.targets:
                pair(network, start, target, args)


if __name__ == "__main__":
    main()
