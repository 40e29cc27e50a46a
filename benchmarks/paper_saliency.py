"""SalAgg and SalAgg+MLS: five saliency methods by nine aggregates, alone, with the max logit, and their correlation.

Sign and deviations come from validation images: ID ones that are not evaluated, and TinyImageNet rows that are in no
test set. AUROCs are averaged over the OOD sets. Writes one JSON file and, beside it, a heatmap as PNG.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import cifar_data, cifar_networks
from benchmarks.json_lines import Line
from benchmarks.paper_clean import sets
from oodattack import Classifier
from oodattack.detectors.max_logit import max_logit
from oodattack.detectors.sal_agg import SalAgg
from oodattack.detectors.saliency import SALIENCIES
from oodattack.detectors.saliency_aggregates import AGGREGATES
from oodattack.identity import versions
from oodattack.metrics import auroc, rank_correlation

BATCH = 50
PANELS = {"sal_agg": "SalAgg alone", "with_mls": "SalAgg+MLS", "correlation": "rank correlation with the max logit"}


def aggregates(net: Classifier, method: str, x: Tensor) -> dict[str, Tensor]:
    """Every aggregate of the maps of all images, shapes (N,), float64; each map is computed once."""
    draft = SalAgg(net, method=method, aggregate="mean", sign=1, seed=0 if SALIENCIES[method].masked else None)
    found: dict[str, list[Tensor]] = {name: [] for name in AGGREGATES}
    for rows in x.split(BATCH):
        with torch.no_grad():
            values = draft.map(rows).double()
        for name, aggregate in AGGREGATES.items():
            found[name].append(aggregate(values))
    return {name: torch.cat(parts) for name, parts in found.items()}


def largest_logits(net: Classifier, x: Tensor) -> Tensor:
    """MLS of all images, shape (N,), float64."""
    with torch.no_grad():
        return torch.cat([-max_logit(net(rows)).double() for rows in x.split(BATCH)])


def cell(a: dict[str, Tensor], mls: dict[str, Tensor], ood: list[str]) -> Line:
    """One method and aggregate: A and MLS by set of images; eq. (6) of Hanssen & Hammer."""
    sign = 1 if a["id_val"].mean() > a["ood_val"].mean() else -1
    scales = mls["id_val"].std(), a["id_val"].std()
    alone = {name: -sign * a[name] for name in ("id", *ood)}
    both = {name: -(mls[name] / scales[0] + sign * a[name] / scales[1]) for name in ("id", *ood)}
    found = {"sign": sign, "correlation": rank_correlation(a["id"], mls["id"])}
    for key, scores in (("sal_agg", alone), ("with_mls", both)):
        found[f"{key}_by_set"] = {name: round(auroc(scores["id"], scores[name]), 4) for name in ood}
        found[key] = round(sum(found[f"{key}_by_set"].values()) / len(ood), 4)
    return found | {"correlation": round(found["correlation"], 4)}


def heatmap(cells: dict[str, dict[str, Line]], mls: float, path: Path) -> None:
    """Three panels, methods by aggregates, with the numbers in them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(PANELS), 1, figsize=(9, 9), constrained_layout=True)
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        grid = torch.tensor([[cells[m][a][key] for a in AGGREGATES] for m in SALIENCIES])
        low, high = (-1, 1) if key == "correlation" else (0, 1)
        axis.imshow(grid, cmap="coolwarm" if key == "correlation" else "viridis", vmin=low, vmax=high, aspect="auto")
        axis.set_xticks(range(len(AGGREGATES)), list(AGGREGATES))
        axis.set_yticks(range(len(SALIENCIES)), list(SALIENCIES))
        axis.set_title(title if key == "correlation" else f"AUROC of {title} (max logit alone: {mls:.3f})")
        for (i, j), value in zip(
            torch.cartesian_prod(*map(torch.arange, grid.shape)).tolist(), grid.flatten(), strict=True
        ):
            dark = abs(value) > 0.6 if key == "correlation" else value < 0.6
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(args: argparse.Namespace) -> None:
    """All methods and aggregates on one network."""
    net = cifar_networks.load(args.network, args.data)
    id = cifar_data.id_images(args.data, n=args.n, seed=args.seed)
    validation = min(args.n, 2000)
    images = {"id": id.x, "id_val": id.targets[:validation]}
    images["ood_val"] = cifar_data.tinyimagenet(args.data, n=args.n, validation=2000, seed=args.seed)[1][:validation]
    ood = sets(args.data, n=args.n, seed=args.seed)
    images |= ood
    mls = {name: largest_logits(net, x) for name, x in images.items()}
    baseline = {name: round(auroc(-mls["id"], -mls[name]), 4) for name in ood}
    cells: dict[str, dict[str, Line]] = {}
    for method in SALIENCIES:
        found = {name: aggregates(net, method, x) for name, x in images.items()}
        cells[method] = {a: cell({k: v[a] for k, v in found.items()}, mls, list(ood)) for a in AGGREGATES}
        print(method, json.dumps({a: [c["sal_agg"], c["with_mls"]] for a, c in cells[method].items()}), flush=True)
    setting = {"network": args.network, "n": args.n, "validation": validation, "seed": args.seed} | versions()
    text = json.dumps({"setting": setting, "max_logit": baseline, "cells": cells}, indent=1)
    args.out.write_text(text + "\n", encoding="utf-8")
    heatmap(cells, sum(baseline.values()) / len(baseline), args.out.with_suffix(".png"))
