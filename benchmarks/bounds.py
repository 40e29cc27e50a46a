"""The sandwich on digits: certified AUROC, AUROC that an attack leaves, and what the bounds cost.

    python -m benchmarks.bounds --n 100 --out benchmarks/results/bounds.jsonl
    python -m benchmarks.bounds --plot benchmarks/results/bounds.jsonl

The embedded networks, digits 0-5 against 6-9, linf balls cut with the box. One line a network, detector, radius and
attacked side: clean, certified and attacked AUROC, the certified one of intervals alone, the share of pairs that
neither side decides, guaranteed FPR. The attack is Auto-PGD on the detector's own score or surrogate; on every row its
score must lie within the bounds, or the script ends with an error. The cost is in passes: processor time of the bounds
of all rows over that of scoring them once, in batches of as many rows.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import json_lines
from oodattack import bounds as certified
from oodattack import data, detectors
from oodattack.attack import maximise
from oodattack.attacks import ATTACKS
from oodattack.bounds.certify import SIDES
from oodattack.bounds.score_bounds import ROWS, ScoreBounds
from oodattack.geometry import row_random
from oodattack.job.ask import Job
from oodattack.job.networks import load_networks
from oodattack.metrics import auroc
from oodattack.threat import ThreatModel

RADII = (0.005, 0.01, 0.02, 0.03)
BUILD = {
    "energy": lambda net, _: detectors.Energy(net),
    "max-logit": lambda net, _: detectors.MaxLogit(net),
    "msp": lambda net, _: detectors.MSP(net),
    "mahalanobis": lambda net, fit: detectors.fit_mahalanobis(net, fit.x, fit.y),
}


def attacked(detector: nn.Module, x: Tensor, eps: float, sign: int, *, seed: int) -> Tensor:
    """Scores of what Auto-PGD finds within eps, lower for sign -1 and higher for +1; per row never worse than clean."""
    threat = ThreatModel(
        name="sandwich", norm="linf", eps=eps, aim="hide", objective="score", start="ood", init="ball", attack="apgd",
        queries=200, restarts=2, iterate="best", source="arXiv:2003.01690",
    )  # fmt: skip
    surrogate = getattr(detector, "surrogate", None)
    score = surrogate.score if surrogate else detector
    random = row_random(seed, f"sandwich/{sign}", range(len(x)), x.device, x.dtype)
    found = maximise(lambda z, _: sign * score(z), x, threat, ATTACKS["apgd"].build(threat), random, keep_clean=True)
    with torch.no_grad():
        return detector(found.x_adv)


def check(found: ScoreBounds, scores: Tensor) -> None:
    """An attacked score outside its bounds is a bug of the bounds."""
    if not ((found.lower <= scores) & (scores <= found.upper)).all():
        raise SystemExit("an attack beat a certified bound: the bounds are wrong")


def seconds(work) -> tuple[float, object]:
    """Processor time of a call, and what it returned."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def scoring(detector: nn.Module, x: Tensor) -> float:
    """Processor seconds of scoring all rows once, median of 5."""
    with torch.no_grad():
        times = [seconds(lambda: [detector(part) for part in x.split(ROWS)])[0] for _ in range(5)]
    return sorted(times)[2]


def measure(network: str, name: str, detector: nn.Module, x: tuple[Tensor, Tensor], eps: float, *, seed: int):
    """One line for each attacked side."""
    x_id, x_ood = x
    once = scoring(detector, torch.cat(x))
    cost, (of_id, of_ood) = seconds(lambda: [certified.score_bounds(detector, z, norm="linf", eps=eps) for z in x])
    flat_cost, flat = seconds(
        lambda: [certified.score_bounds(detector, z, norm="linf", eps=eps, deep=False) for z in x]
    )
    raised, hidden = attacked(detector, x_id, eps, 1, seed=seed), attacked(detector, x_ood, eps, -1, seed=seed)
    for scores, deep, by_interval in ((raised, of_id, flat[0]), (hidden, of_ood, flat[1])):
        check(deep, scores)
        check(by_interval, scores)
    still = [certified.score_bounds(detector, z, norm="linf", eps=0.0) for z in x]
    for sides in SIDES:
        left = (of_id.clean if sides == "hide" else raised, of_ood.clean if sides == "raise" else hidden)
        deep, intervals = (
            (still[0] if sides == "hide" else each[0], still[1] if sides == "raise" else each[1])
            for each in ((of_id, of_ood), flat)
        )
        found = certified.guarantee(*deep)
        yield {
            "benchmark": "bounds", "network": network, "detector": name, "norm": "linf", "eps": eps, "sides": sides,
            "n": len(x_id), "seed": seed, "clean": auroc(of_id.clean, of_ood.clean), "certified": found.auroc,
            "certified_intervals": certified.guarantee(*intervals).auroc, "attacked": auroc(*left),
            "undecided": certified.undecided_share(certified.worst_scores(*deep), left),
            "fpr_guaranteed": found.fpr_at_95_id_tpr, "fpr_deployed": found.fpr_deployed,
            "passes": round(cost / once), "passes_intervals": round(flat_cost / once), "torch": torch.__version__,
        }  # fmt: skip


def plot(lines: list[json_lines.Line], path: Path) -> None:
    """A panel for each attacked side of each detector with several radii: what is certified, what an attack left."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pairs = dict.fromkeys((line["detector"], line["network"]) for line in lines)
    chosen = {pair: [x for x in lines if (x["detector"], x["network"]) == pair] for pair in pairs}
    chosen = {pair: own for pair, own in chosen.items() if len({x["eps"] for x in own}) > 1}
    size = {"figsize": (9, 2.8 * len(chosen)), "constrained_layout": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(len(chosen), len(SIDES), **size)
    for row, ((detector, network), own) in zip(axes, chosen.items(), strict=True):
        for axis, sides in zip(row, SIDES, strict=True):
            cells = sorted((x for x in own if x["sides"] == sides), key=lambda x: x["eps"])
            eps = [0.0, *[x["eps"] for x in cells]]
            low, high = ([cells[0]["clean"], *[x[end] for x in cells]] for end in ("certified", "attacked"))
            axis.plot(eps, high, marker=".", label="left by an attack")
            axis.plot(eps, low, marker=".", label="certified")
            axis.fill_between(eps, low, high, alpha=0.2, color="grey", label="undecided")
            axis.set(title=f"{detector}@{network}, {sides}", xlabel="linf radius", ylim=(0, 1))
        row[0].set_ylabel("AUROC")
    axes[0][0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="images a side (default: %(default)s)")
    parser.add_argument("--network", action="append", help="of the recipes; repeatable (default: ce, greg+)")
    parser.add_argument("--detector", action="append", choices=BUILD, help="repeatable (default: all)")
    parser.add_argument("--eps", type=float, action="append", help=f"repeatable (default: {RADII})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON lines; what is there already is not measured again")
    parser.add_argument("--plot", type=Path, help="draw the curves of these lines, as PNG beside them")
    args = parser.parse_args()
    if args.plot:
        plot(json_lines.read(args.plot), args.plot.with_suffix(".png"))
        return
    fit = data.load("digits", part="train", seed=0)
    test = data.load("digits", part="test", samples=args.n, seed=args.seed)
    x = test.x, data.load("digits-6-9", samples=args.n, seed=args.seed).x
    known = json_lines.read(args.out) if args.out else []
    networks = load_networks(args.network or ["ce", "greg+"], Job(), test, None)
    for network, loaded in networks.items():
        for name in args.detector or BUILD:
            detector = BUILD[name](loaded.net, fit).eval()
            for eps in args.eps or RADII:
                cell = {"network": network, "detector": name, "eps": eps, "n": args.n, "seed": args.seed}
                if json_lines.find(known, cell) is None:
                    for line in measure(network, name, detector, x, eps, seed=args.seed):
                        json_lines.append(args.out, line)


if __name__ == "__main__":
    main()
