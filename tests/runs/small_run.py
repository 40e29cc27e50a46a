"""A small run: user code and a table detector; a threat model, a matching one, a suite and one that shares a budget."""

import json
from pathlib import Path

import numpy as np

CODE = """
import torch
from torch import nn

def net(channels, classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4)).eval()

def relu(channels, classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()

def bright(x):
    return x.flatten(1).mean(1)
"""
LIMITS = 'norm = "linf"\neps = "8/255"\nstart = "ood"\nrestarts = 1\niterate = "best"\nsource = "test"\n'
QUICK = LIMITS + 'aim = "both"\nobjective = "score"\ninit = "ball"\nattack = "apgd"\nqueries = 6\n'
MATCH = LIMITS + (
    'aim = "match"\nmatch = "score"\npaired = false\ninit = "sphere"\nattack = "adamax"\nstep_size = 0.1\nqueries = 8\n'
)
SUITE = LIMITS + (
    'aim = "hide"\nobjective = "score"\ninit = "ball"\nqueries = 30\n'
    '[[members]]\nname = "a"\nattack = "apgd"\nqueries = 6\n[[members]]\nname = "b"\nattack = "square"\nqueries = 8\n'
)
WORST = 'members = ["quick-hide.toml", "quick-square.toml"]\nsource = "test"\n'
FILES = {
    "mine.py": CODE,
    "quick.toml": QUICK,
    "match.toml": MATCH,
    "shared.toml": SUITE,
    "worst.toml": WORST,
    "quick-hide.toml": QUICK.replace('"both"', '"hide"'),
    "quick-square.toml": QUICK.replace('"both"', '"hide"').replace('"apgd"', '"square"'),
}
RUN = [
    "run", "--detector", "energy", "--detector", "mine:bright", "--model", "mine:net", "--id", "npz:id.npz", "--ood",
    "npz:ood.npz", "--threat", "quick.toml", "--threat", "match.toml", "--threat", "shared.toml", "--threat",
    "worst.toml", "--batch-size", "4", "--out", "out",
]  # fmt: skip


def fill(folder: Path) -> None:
    """Everything that `RUN` names."""
    draw = np.random.default_rng(0)
    bits = lambda *shape, top: draw.integers(0, top, shape).astype(np.uint8)
    np.savez(folder / "id.npz", images=bits(14, 8, 8, 1, top=150), labels=np.arange(14) % 2)
    np.savez(folder / "ood.npz", images=draw.random((6, 8, 8, 1)))
    for name, text in FILES.items():
        (folder / name).write_text(text)


def result(folder: Path) -> tuple[object, dict[str, str]]:
    """The report without what a clock says, and the hash of every other file."""
    manifest = json.loads((folder / "manifest.json").read_text())["files"]
    report = json.loads((folder / "report.json").read_text())
    hashes = {
        name: digest for name, digest in manifest.items() if name not in ("report.json", "report.html", "plan.json")
    }
    report["spec"].pop("command")
    return without(report), hashes


def without(node: object) -> object:
    if isinstance(node, dict):
        return {key: without(value) for key, value in node.items() if key not in ("created", "seconds")}
    return [without(value) for value in node] if isinstance(node, list) else node
