"""AUROC that is left of detectors on CIFAR-10 networks after our attacks and after those of other libraries.

    python -m benchmarks.attack_strength --data FOLDER --suite NAME --passes 100 --seed 0 --out strength.jsonl

One JSON line per network x detector x OOD set x threat x attack. Lines that the file already holds are not repeated.

Fair play: every peer gets at least as many passes a row as ours spent on average in the same cell, and `--passes` at
least. It attacks the detector wrapped in two logits (`peers.py`), the threshold set on the clean ID scores at 95 % TPR;
where a detector declares a surrogate, once more the surrogate, with a threshold of its own. What it returns is
projected into the ball and scored by the untouched detector; a clean image that scores lower counts instead, row by
row, as for ours.

Counted: `passes`, calls of the score or surrogate per attacked row during the search; `forwards`, rows that went
through the network per attacked row: for peers with the scoring of what they return, for ours with all scoring, that of
clean, ID and 8-bit images included. `--equal forwards` gives peers as many passes as ours had forwards.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import cifar_data, cifar_networks, json_lines
from benchmarks.json_lines import Line
from benchmarks.one_attack import BATCH, Counted, Sides, device_name, limits, run_ours, run_peer, scores
from benchmarks.peers import PEERS, Ball
from oodattack.detectors import DETECTORS, Fit
from oodattack.full_precision import full_precision
from oodattack.lookup import summary
from oodattack.threat import Threat, members_of, read_threat

BALLS = {"linf-8-255": Ball("linf", 8 / 255), "l2-0.5": Ball("l2", 0.5)}
OURS = ("ood-aa", "pgd-100")


def check_suite(threat: Threat, ball: Ball) -> None:
    """Raise ValueError unless a suite attacks the OOD side within the ball."""
    one = members_of(threat)[0]
    if one.norm != ball.norm or not math.isclose(one.eps, ball.eps) or one.attacks_id or one.start != "ood":
        raise ValueError(f"`--suite` must hide OOD inputs within {ball}, got {threat.name!r}. Name another one.")


def suite(args: argparse.Namespace) -> Threat:
    """The suite; with another budget, if one is asked for, under a name of its own."""
    whole, most = read_threat(args.suite), args.queries
    if most is None:
        return whole
    members = [m.model_copy(update={"queries": min(m.queries, most)}) for m in members_of(whole)]
    return whole.model_copy(update={"name": f"{whole.name}-{most}", "queries": most, "members": tuple(members)})


def attacks_of(detector: torch.nn.Module, names: Iterable[str], on: str) -> Iterator[tuple[str, str | None]]:
    """(attack, what it attacks), ours first: their passes are the peers' budget."""
    names = list(names)
    yield from ((name, None) for name in OURS if name in names)
    sides = ("detector", "surrogate") if getattr(detector, "surrogate", None) is not None else ("detector",)
    sides = sides[-1:] if on == "surrogate" else sides
    yield from ((name, on) for name in names if name in PEERS for on in sides)


def cell(detector, id: cifar_data.Id, x: Tensor, where: Line, args: argparse.Namespace) -> None:
    """All attacks on one detector and one OOD set, those in the file already excepted."""
    ball, side = BALLS[where["threat"]], None
    for name, on in attacks_of(detector, args.attacks, args.on):
        key = where | {"attack": name, "on": on} | ({"suite": args.suite} if name == "ood-aa" else {})
        lines = json_lines.read(args.out)
        spent = json_lines.find(lines, where | {"attack": "ood-aa", "suite": args.suite})
        budget = max(args.passes, math.ceil(spent[args.equal]) if spent else 0)
        done = json_lines.find(lines, key)
        if done and done.get("budget", budget) >= budget:  # a peer that had less than ours has its turn again
            continue
        try:
            if name in OURS:
                threat = suite(args) if name == "ood-aa" else limits(ball)
                found = run_ours(detector, id, x, threat, seed=args.seed, batch=args.batch)
            else:
                side = side or Sides(id.x, x, scores(detector, id.x), scores(detector, x))
                own = {"passes": budget, "seed": args.seed, "batch": args.batch}
                found = run_peer(detector, on, side, name, ball, **own) | {"budget": budget}
        except Exception as error:  # whatever another library raises: the next attack has its turn
            found = {"failed": summary(error)}
        json_lines.append(args.out, {"benchmark": "attack_strength"} | key | found | {"device": device_name(x.device)})


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commas = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar_data.py and of the weight files")
    parser.add_argument("--network", type=commas, default=["resnet20"], help=",".join(cifar_networks.NETWORKS))
    parser.add_argument("--detectors", type=commas, default=["msp", "energy", "mahalanobis", "odin", "si-z"])
    parser.add_argument("--ood", type=commas, default=list(cifar_data.OOD))
    parser.add_argument("--threat", choices=BALLS, default="linf-8-255")
    parser.add_argument("--suite", help="our threat model or suite for the attack ood-aa, name or FILE.toml")
    parser.add_argument("--queries", type=int, help="budget of the suite for each row, in place of its own")
    parser.add_argument("--attacks", type=commas, default=[*OURS, *PEERS], help=",".join([*OURS, *PEERS]))
    parser.add_argument("--n", type=int, default=500, help="ID images, and OOD images a set")
    parser.add_argument("--passes", type=int, default=100, help="least passes a row for peers")
    parser.add_argument("--equal", choices=["passes", "forwards"], default="passes", help="what of ours peers get")
    parser.add_argument(
        "--on", choices=["both", "surrogate"], default="both", help="where there is one, peers attack it alone"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--batch", type=int, default=BATCH, help="rows at a time")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    return parser


@full_precision()  # for peers too
def main(arguments: list[str] | None = None) -> None:
    parser = options()
    args = parser.parse_args(arguments)
    known = {"network": cifar_networks.NETWORKS, "detectors": DETECTORS, "ood": cifar_data.OOD}
    known["attacks"] = [*OURS, *PEERS]
    for option, names in known.items():
        if unknown := [name for name in getattr(args, option) if name not in names]:
            parser.error(f"--{option} must be of {', '.join(names)}, got {unknown[0]!r}")
    if "ood-aa" in args.attacks:
        if args.suite is None:
            parser.error("--attacks ood-aa needs --suite")
        check_suite(read_threat(args.suite), BALLS[args.threat])
    id = cifar_data.Id(*[t.to(args.device) for t in cifar_data.id_images(args.data, n=args.n, seed=args.seed)])
    for network in args.network:
        net = cifar_networks.load(network, args.data, kind=Counted).to(args.device)
        fit = Fit(*[t.to(args.device) for t in cifar_data.fit_images(args.data, seed=args.seed)])
        for name in args.detectors:
            detector = DETECTORS[name].build(net, fit)
            for ood in args.ood:
                x = cifar_data.ood_images(ood, args.data, n=args.n, seed=args.seed).to(args.device)
                where = {"network": network, "detector": name, "ood": ood, "threat": args.threat}
                cell(detector, id, x, where | {"n": args.n, "seed": args.seed, "queries": args.queries}, args)


if __name__ == "__main__":
    main()
