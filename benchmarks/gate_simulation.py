"""How often does the gate fail a build by noise alone, and how often does it catch a drop of twice the margin?

Scores of 325 ID and 200 OOD images, the default of `oodattack run`, are normal, alike within an image for all cells and
correlated between baseline and report; every cell has its own AUROC, and each four attacked cells a clean one. Nothing
has changed but noise; then the attacked AUROC of one cell, another one each time, truly falls by twice the margin.
`redrawn` is another noise: the scores of that share of the images are drawn anew, all others stay as they are. Without
pairs the test knows the AUROCs alone.

    python benchmarks/gate_simulation.py [--out benchmarks/results/gate_simulation.jsonl]
"""

import argparse
import json
import math
import sys
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are scripts, no part of the package

from benchmarks import json_lines
from oodattack.gate.compare import POWER
from oodattack.gate.delong import Placed, hanley_mcneil, placed
from oodattack.gate.family import adjusted

N_ID, N_OOD, MARGIN, ALPHA = 325, 200, 0.02, 0.01
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # AUROC under attack, in turn
CLEAN, THREATS = 0.97, 4
ALIKE = 0.5  # correlation between cells of the scores of one image
TIMES = {1: 8_000, 10: 3_000, 40: 1_200}  # cells -> builds that are simulated


RESULTS = Path(__file__).parent / "results" / "gate_simulation.jsonl"


class Noise(NamedTuple):
    """What lies between the scores of the baseline and those of the report."""

    correlation: float
    redrawn: float = 0.0
    paired: bool = True


NOISES = [
    *(Noise(rho) for rho in (0.999, 0.99, 0.95, 0.9, 0.3)),
    Noise(1.0, redrawn=0.05),
    Noise(0.99, paired=False),
    Noise(0.3, paired=False),
]


def shift(auroc: np.ndarray) -> np.ndarray:
    """How far apart two normal distributions of variance 1 are at that AUROC, shape (K, 1)."""
    return np.array([[math.sqrt(2) * NormalDist().inv_cdf(a)] for a in auroc])


def both(random: np.random.Generator, cells: int, rows: int, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the baseline and of the report, each (cells, rows), variance 1."""

    def drawn() -> np.ndarray:
        image, own = random.standard_normal((1, rows)), random.standard_normal((cells, rows))
        return math.sqrt(ALIKE) * image + math.sqrt(1 - ALIKE) * own

    same, rho = drawn(), noise.correlation
    old, new = (math.sqrt(rho) * same + math.sqrt(1 - rho) * drawn() for _ in range(2))
    return old, np.where(random.random((cells, rows)) < noise.redrawn, drawn(), new)


def errors_of(old: Placed, new: Placed, noise: Noise) -> np.ndarray:
    """Standard errors of the drops, as the gate has them."""
    if noise.paired:
        return old.minus(new).error
    alone = [[hanley_mcneil(a, N_ID, N_OOD) for a in side.auroc] for side in (old, new)]
    return np.hypot(*alone)


def fails(old: Placed, new: Placed, noise: Noise) -> np.ndarray:
    """Which checks the gate fails."""
    drops = old.auroc - new.auroc
    return (drops > MARGIN) & (adjusted(drops, errors_of(old, new, noise), MARGIN) <= ALPHA)


def simulate(cells: int, noise: Noise, *, times: int, seed: int) -> json_lines.Line:
    """Rates of one setting."""
    random = np.random.default_rng(seed)
    clean = -(-cells // THREATS)
    auroc = np.array([*(LEVELS[i % len(LEVELS)] for i in range(cells)), *[CLEAN] * clean])
    up, lower = shift(auroc), shift(np.maximum(auroc - 2 * MARGIN, 1e-3))
    alarms, caught = 0, {level: [0, 0] for level in LEVELS}
    spread = []
    for i in range(times):
        (id_old, id_new), (ood_old, ood_new) = (both(random, len(auroc), n, noise) for n in (N_ID, N_OOD))
        old, new = placed(id_old, ood_old + up), placed(id_new, ood_new + up)
        alarms += bool(fails(old, new, noise).any())
        spread.append(errors_of(old, new, noise)[:cells].mean())
        worse = i % len(LEVELS) if cells == 1 else random.integers(cells)
        if cells == 1:
            level = LEVELS[worse]
            worse, auroc[0] = 0, LEVELS[(i + 1) % len(LEVELS)]  # the next build has another AUROC
        else:
            level = float(auroc[worse])
        fallen = placed(id_new[worse], ood_new[worse] + lower[worse])
        for side, value in zip(new, fallen, strict=True):
            side[worse] = value
        caught[level][0] += bool(fails(old, new, noise)[worse])
        caught[level][1] += 1
        if cells == 1:
            up, lower = shift(auroc), shift(np.maximum(auroc - 2 * MARGIN, 1e-3))
    hits, tries = (sum(c[k] for c in caught.values()) for k in (0, 1))
    return {
        "cells": cells,
        **noise._asdict(),
        "checks": len(auroc),
        "builds": times,
        "error": round(float(np.mean(spread)), 5),
        "false_alarms": alarms / times,
        "false_alarms_at_most": at_most(alarms, times),
        "caught": hits / tries,
        "caught_by_auroc": {level: round(c[0] / c[1], 4) for level, c in caught.items() if c[1]},
    }


def at_most(hits: int, tries: int) -> float:
    """Upper end of Wilson's 95 % interval."""
    p, z = hits / tries, 1.96
    middle, half = p + z * z / (2 * tries), z * math.sqrt(p * (1 - p) / tries + z * z / (4 * tries * tries))
    return (middle + half) / (1 + z * z / tries)


def markdown(lines: list[json_lines.Line]) -> str:
    """A row a noise, false alarms and drops caught for each number of cells."""
    sizes = list(dict.fromkeys(line["cells"] for line in lines))
    out = [
        f"| old against new | error of a drop | {' | '.join(f'false alarms, {n} cells' for n in sizes)} | "
        f"{' | '.join(f'caught, {n} cells' for n in sizes)} |",
        "|---" * (2 + 2 * len(sizes)) + "|",
    ]
    for noise in dict.fromkeys(Noise(*(line[field] for field in Noise._fields)) for line in lines):
        mine = [json_lines.find(lines, {"cells": n, **noise._asdict()}) for n in sizes]
        name = f"redrawn {noise.redrawn:.0%}" if noise.redrawn else f"correlation {noise.correlation:g}"
        alarms = " | ".join("-" if m is None else f"{m['false_alarms']:.2%}" for m in mine)
        caught = " | ".join("-" if m is None else f"{m['caught']:.1%}" for m in mine)
        error = next(m["error"] for m in mine if m)
        out.append(f"| {name}{'' if noise.paired else ', no pairs'} | {error:.4f} | {alarms} | {caught} |")
    return "\n".join(out)


def main() -> None:
    """Simulate every setting that is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    lines = json_lines.read(out)
    for (cells, times), noise in product(TIMES.items(), NOISES):
        if json_lines.find(lines, {"cells": cells, **noise._asdict()}) is None:
            lines.append(simulate(cells, noise, times=times, seed=0))
            json_lines.append(out, lines[-1])
    print(f"\nfalse alarms: at most {ALPHA:.0%} wanted; caught: at least {POWER:.0%}; {N_ID} ID, {N_OOD} OOD images\n")
    print(markdown(json_lines.parse("\n".join(json.dumps(line) for line in lines))))


if __name__ == "__main__":
    main()
