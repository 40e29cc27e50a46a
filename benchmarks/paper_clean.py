"""Clean AUROC and FPR95 of every detector of the table, CIFAR-10 test against four OOD sets."""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import cifar_data, cifar_networks, json_lines
from benchmarks.json_lines import Line
from oodattack.detectors import DETECTORS, Fit
from oodattack.identity import versions
from oodattack.metrics import auroc, bootstrap, fpr_at_95_id_tpr, fpr_at_95_ood_tpr

VALIDATION = 2000  # TinyImageNet images that detectors may be tuned on
TUNED = 300  # images of either side that detectors are tuned on, for time's sake
DRAWS = 2000


def sets(folder: Path, *, n: int, seed: int) -> dict[str, Tensor]:
    """OOD test sets by name, n images each."""
    found = {name: cifar_data.ood_images(name, folder, n=n, seed=seed) for name in cifar_data.OOD}
    return found | {"tinyimagenet": cifar_data.tinyimagenet(folder, n=n, validation=VALIDATION, seed=seed)[0]}


def fit_on(folder: Path, *, n: int, seed: int) -> Fit:
    """Training images of CIFAR-10, their labels, and validation images of both sides that are in no test set."""
    ood_val = cifar_data.tinyimagenet(folder, n=1, validation=VALIDATION, seed=seed)[1]
    id_val = cifar_data.id_images(folder, n=5000, seed=seed).targets[-TUNED:]
    return Fit(*cifar_data.fit_images(folder, n=n, seed=seed), ood_val[:TUNED], id_val)


def networks_of(detector: str, network: str) -> list[str]:
    """The networks that a detector of the table stands on: all of them where it is made of several."""
    return list(cifar_networks.NETWORKS) if DETECTORS[detector].several else [network]


def built(detector: str, network: str, folder: Path, fit: Fit) -> nn.Module:
    """A detector of the table with its paper's defaults."""
    nets = [cifar_networks.load(name, folder) for name in networks_of(detector, network)]
    return DETECTORS[detector].on(nets, fit).eval()


def scored(detector: nn.Module, x: Tensor, batch: int = 100) -> Tensor:
    """Scores of all rows."""
    with torch.no_grad():
        return torch.cat([detector(rows).double() for rows in x.split(batch)])


def numbers(on_id: Tensor, on_ood: Tensor) -> Line:
    """AUROC with its interval, and both FPR95."""
    low, high = bootstrap(on_id, on_ood, draws=DRAWS, seed=0).auroc
    found = {"auroc": auroc(on_id, on_ood), "auroc_low": low, "auroc_high": high}
    found |= {"fpr_at_95_id_tpr": fpr_at_95_id_tpr(on_id, on_ood)}
    return {k: round(v, 4) for k, v in (found | {"fpr_at_95_ood_tpr": fpr_at_95_ood_tpr(on_id, on_ood)}).items()}


def run(args: argparse.Namespace) -> None:
    """One line a detector and OOD set; those in the file already are left out."""
    x_id = cifar_data.id_images(args.data, n=args.n, seed=args.seed).x
    fit, ood = fit_on(args.data, n=args.fit, seed=args.seed), sets(args.data, n=args.n, seed=args.seed)
    setting = {"benchmark": "paper_clean", "network": args.network, "n": args.n, "fit": args.fit, "seed": args.seed}
    for name in args.detectors or DETECTORS:
        where = setting | {"detector": name}
        if all(json_lines.find(json_lines.read(args.out), where | {"ood": k}) for k in ood):
            continue
        start = time.perf_counter()
        try:
            detector = built(name, args.network, args.data, fit)
        except ValueError as error:  # such as MOOD, which needs a network with exits
            print(f"{name}: {error}", flush=True)
            continue
        ready = time.perf_counter()
        on_id = scored(detector, x_id)
        took = {"fit_seconds": round(ready - start, 1), "ms_per_image": (time.perf_counter() - ready) / args.n * 1e3}
        for kind, x in ood.items():
            json_lines.append(args.out, where | {"ood": kind} | numbers(on_id, scored(detector, x)) | took | versions())
