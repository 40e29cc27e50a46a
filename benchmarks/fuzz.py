"""Random input for the readers of files: they read it or refuse it with a ValueError, and do so at once.

    python -m benchmarks.fuzz --examples 4000

Three readers: threat files (TOML), reports (JSON) and images (.npz). Each gets random bytes, good files with random
changes to their bytes, and good files with random values in their fields. What a reader raises besides ValueError, or
takes more than `DEADLINE` seconds for, ends the script.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks import json_lines

DEADLINE = 5.0  # seconds
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
THREAT = (Path(__file__).parents[1] / "threat_models" / "linf-8-255.toml").read_text(encoding="utf-8")
SUITE = (Path(__file__).parents[1] / "threat_models" / "ood-aa.toml").read_text(encoding="utf-8")
METRICS = {
    **dict.fromkeys(("auroc", "auroc_low", "auroc_high", "aupr", "ties"), 0.5),
    **{f"fpr_at_95_{side}_tpr{end}": 0.5 for side in ("id", "ood") for end in ("", "_low", "_high")},
    "n_id": 3,
    "n_ood": 3,
}
RESULT = {
    "detector": "energy", "network": "ce", "threat": "t", "ood": "x", "direction": "hide", "attack": "apgd",
    "surrogate": None, "shared_with": [], "clean": METRICS, "attacked": METRICS, "attacked_8bit": METRICS,
    "deployed": {"threshold": 0.0, "id_tpr": 0.95, "fpr": 0.5}, "mape": None, "distance": 0.1, "queries": 5.0,
    "seconds": 1.0, "members": None, "indicators": {"white_box": True}, "verdict": "holds", "reason": "so",
}  # fmt: skip
SOURCE = {"name": "x", "n": 3, "sha256": "0", "source": "x"}
REPORT = {
    "schema": 1, "created": "now", "versions": {}, "results": [RESULT], "skipped": [],
    "spec": {
        "command": None, "seed": 0, "samples": None, "batch_size": 1, "precision": "full", "device": "cpu",
        "id": SOURCE, "targets": None, "ood": [SOURCE], "detectors": ["energy@ce"], "networks": {}, "id_accuracy": {},
        "threats": {},
    },
}  # fmt: skip


def npz() -> bytes:
    """A good file of images."""
    file = io.BytesIO()
    np.savez(file, images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.arange(2))
    return file.getvalue()


@st.composite
def changed_bytes(draw: Any, good: bytes) -> bytes:
    """A good file, cut, or with some of its bytes replaced, put in or taken out."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(("set", "put", "take", "cut")))
        piece = draw(st.binary(min_size=1, max_size=8))
        if how == "cut":
            data = data[:at] if draw(st.integers(0, 9)) == 0 else data
        else:
            data[at : at + (0 if how == "put" else len(piece))] = b"" if how == "take" else piece
    return bytes(data)


@st.composite
def changed_toml(draw: Any) -> bytes:
    """The lines of a good threat file, some with another value."""
    lines = draw(st.sampled_from((THREAT, SUITE))).splitlines()
    value = SCALARS.filter(lambda v: v is not None) | st.lists(SCALARS.filter(lambda v: v is not None), max_size=3)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        name, equals, _ = lines[at].partition("=")
        found = json.dumps(draw(value)).replace("Infinity", "inf").replace("NaN", "nan")
        lines[at] = f"{name}{equals} {found}" if equals else draw(st.text(max_size=20))
    return "\n".join(lines).encode(errors="replace")


@st.composite
def changed_json(draw: Any) -> bytes:
    """A good report with another value at a random place."""
    whole = json.loads(json.dumps(REPORT))
    for _ in range(draw(st.integers(1, 3))):
        node: Any = whole
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = node[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                node = inner
                continue
            node[key] = draw(VALUES)
            break
    return json.dumps(whole).encode()


def files(name: str) -> st.SearchStrategy[bytes]:
    """Random input for one of the readers."""
    good = {"threat": THREAT.encode(), "report": json.dumps(REPORT).encode(), "npz": npz()}[name]
    inside = {"threat": changed_toml(), "report": changed_json(), "npz": st.nothing()}[name]
    return st.binary(max_size=200) | changed_bytes(good) | inside


def read(name: str, path: Path) -> bool:
    """Let a reader read a file; whether it took it."""
    from oodattack import data
    from oodattack.report import read_report
    from oodattack.threat import read_threat

    readers: dict[str, Callable[[], object]] = {
        "threat": lambda: read_threat(path),
        "report": lambda: read_report(path),
        "npz": lambda: data.load(f"npz:{path}", seed=0),
    }
    begin = time.perf_counter()
    try:
        readers[name]()
        taken = True
    except ValueError:
        taken = False
    assert time.perf_counter() - begin < DEADLINE, f"{name} took too long"
    return taken


ENDINGS = {"threat": "toml", "report": "json", "npz": "npz"}


def fuzz(name: str, examples: int, folder: Path) -> dict[str, int]:
    """Run so many examples through a reader; how many it took and how many it refused."""
    counts = {"taken": 0, "refused": 0}
    path = folder / f"x.{ENDINGS[name]}"

    @settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(files(name))
    def one(content: bytes) -> None:
        path.write_bytes(content)
        counts["taken" if read(name, path) else "refused"] += 1

    one()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=4000, help="for each reader")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ENDINGS:
            begin = time.perf_counter()
            counts = fuzz(name, args.examples, Path(folder))
            seconds = round(time.perf_counter() - begin, 1)
            json_lines.append(
                args.out, {"reader": name, "examples": sum(counts.values()), **counts, "seconds": seconds}
            )


if __name__ == "__main__":
    main()
