"""S&I beside GAIA on the same images: AUROC of each, and the interval of their difference."""

import argparse

import torch
from torch import Tensor

from benchmarks import cifar_data, json_lines
from benchmarks.paper_clean import built, fit_on, scored, sets
from oodattack.identity import versions
from oodattack.metrics import auroc

PAIRS = (("si-z", "gaia-z"), ("si-a", "gaia-a"))
DRAWS = 2000


def difference(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], *, seed: int) -> tuple[float, float]:
    """95 % interval of AUROC(ours) - AUROC(theirs): percentile bootstrap that draws the same images for both.

    Args:
        ours: ID and OOD scores, shapes (N,) and (M,).
        theirs: likewise, of the same images.
        seed: fixes the draws.
    """
    random = torch.Generator().manual_seed(seed)
    pairs = [won(*scores) for scores in (ours, theirs)]
    gap = pairs[0] - pairs[1]  # (N, M); the AUROC of a draw is a mean over its rows and columns
    n, m = gap.shape
    found = []
    for _ in range(DRAWS):
        rows = torch.randint(n, (n,), generator=random).bincount(minlength=n).double()
        columns = torch.randint(m, (m,), generator=random).bincount(minlength=m).double()
        found.append((rows @ gap @ columns) / (n * m))
    low, high = torch.stack(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def won(on_id: Tensor, on_ood: Tensor) -> Tensor:
    """1 where the OOD image scores higher, 1/2 where both score alike: shape (N, M), float64."""
    return (on_ood[None] > on_id[:, None]).double() + (on_ood[None] == on_id[:, None]).double() / 2


def run(args: argparse.Namespace) -> None:
    """One line a pair of detectors and OOD set."""
    x_id = cifar_data.id_images(args.data, n=args.n, seed=args.seed).x
    fit, ood = fit_on(args.data, n=args.fit, seed=args.seed), sets(args.data, n=args.n, seed=args.seed)
    setting = {"benchmark": "paper_si", "network": args.network, "n": args.n, "seed": args.seed}
    for names in PAIRS:
        detectors = [built(name, args.network, args.data, fit) for name in names]
        on_id = [scored(d, x_id) for d in detectors]
        for kind, x in ood.items():
            pairs = [(i, scored(d, x)) for i, d in zip(on_id, detectors, strict=True)]
            low, high = difference(*pairs, seed=args.seed)
            found = {name: round(auroc(*pair), 4) for name, pair in zip(names, pairs, strict=True)}
            line = {
                "pair": list(names),
                "ood": kind,
                "auroc": found,
                "difference": round(auroc(*pairs[0]) - auroc(*pairs[1]), 4),
            }
            json_lines.append(args.out, setting | line | {"low": round(low, 4), "high": round(high, 4)} | versions())
