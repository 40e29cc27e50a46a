"""What is left of every detector of the table under `ood-aa`, linf 8/255, and in the whole box; CIFAR-10 networks."""

import argparse
import time

import oodattack as oa
from benchmarks import cifar_data, json_lines
from benchmarks.json_lines import Line
from benchmarks.paper_clean import built, fit_on, sets
from oodattack.detectors import DETECTORS
from oodattack.full_precision import full_precision
from oodattack.identity import versions
from oodattack.report.record import Result

THREATS = ("ood-aa", "sanity-full-box")


def numbers(attacked: Result, whole_box: Result) -> Line:
    """What a line says of the two threats."""
    return {
        "auroc_clean": round(attacked.clean.auroc, 4),
        "auroc": round(attacked.attacked.auroc, 4),
        "passes": round(attacked.queries, 1),
        "whole_box": round(whole_box.attacked.auroc, 4),
        "verdict": attacked.verdict,
        "reason": attacked.reason,
        "surrogate": attacked.surrogate,
        "rank_correlation": attacked.indicators.get("surrogate_rank_correlation"),
        "members": attacked.members,
    }


@full_precision()
def run(args: argparse.Namespace) -> None:
    """One line a detector and OOD set; those in the file already are left out."""
    id = cifar_data.id_images(args.data, n=args.n, seed=args.seed)
    fit, ood = fit_on(args.data, n=args.fit, seed=args.seed), sets(args.data, n=args.n, seed=args.seed)
    setting = {"benchmark": "paper_attacked", "network": args.network, "n": args.n, "fit": args.fit, "seed": args.seed}
    for name in args.detectors or DETECTORS:
        where, lines = setting | {"detector": name}, json_lines.read(args.out)
        wanted = [kind for kind in args.ood if not json_lines.find(lines, where | {"ood": kind})]
        if not wanted:
            continue
        try:
            detector = built(name, args.network, args.data, fit)
        except ValueError as error:  # such as MOOD, which needs a network with exits
            print(f"{name}: {error}", flush=True)
            continue
        for kind in wanted:
            start = time.perf_counter()
            report = oa.evaluate(
                {name: detector}, id=id.x, ood={kind: ood[kind]}, threats=THREATS, targets=id.targets, seed=args.seed
            )
            found = numbers(*report.results) | {"seconds": round(time.perf_counter() - start, 1)}
            json_lines.append(args.out, where | {"ood": kind} | found | versions())
