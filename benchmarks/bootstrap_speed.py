"""Seconds for bootstrap intervals of three metrics, against a loop over scikit-learn for the AUROC alone.

Prints one JSON line. The loop is timed on a few draws and scaled up to all of them: `naive_seconds` is an
extrapolation, and says so.
"""

import json
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from oodattack.metrics import bootstrap

SIZE, DRAWS, NAIVE_DRAWS, REPEATS = 10_000, 2_000, 20, 5

random = torch.Generator().manual_seed(0)
id_scores, ood_scores = torch.randn(SIZE, generator=random), 1 + torch.randn(SIZE, generator=random)


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def naive() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], SIZE)
    for _ in range(NAIVE_DRAWS):
        sides = [draw.choice(scores.numpy(), SIZE) for scores in (id_scores, ood_scores)]
        roc_auc_score(labels, np.concatenate(sides))


def ours() -> None:
    bootstrap(id_scores, ood_scores, draws=DRAWS, seed=0)


pairs = [(seconds(ours), seconds(naive) * DRAWS / NAIVE_DRAWS) for _ in range(REPEATS)]  # in turns, under one load
taken, extrapolated = np.median(pairs, axis=0)
print(
    json.dumps(
        {
            "n_id": SIZE,
            "n_ood": SIZE,
            "draws": DRAWS,
            "seconds": round(taken, 3),
            "naive_seconds": round(extrapolated, 1),
            "naive": f"extrapolated from {NAIVE_DRAWS} draws, AUROC only",
            "ratio": round(extrapolated / taken, 1),
        }
    )
)
