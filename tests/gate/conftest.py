import numpy as np
import pytest

from oodattack.gate.baseline import Area, Baseline, Cell
from oodattack.gate.delong import placed
from oodattack.gate.ranks import ranked
from oodattack.report import Source


def area(vectors, id_, ood) -> Area:
    rows = vectors[id_], vectors[ood]
    return Area(auroc=float(placed(*rows).auroc), n_id=len(rows[0]), n_ood=len(rows[1]), id=id_, ood=ood)


@pytest.fixture
def made():
    """Makes a baseline of one detector on one set, from its scores: clean ID, clean OOD, attacked OOD by threat."""

    def make(id_, clean, attacked, *, scores=True, **fields) -> Baseline:
        vectors = {"clean id": id_, "clean ood/svhn": clean, **{f"{t} ood/svhn": x for t, x in attacked.items()}}
        cells = [
            Cell(
                detector="energy@ce",
                threat=threat,
                ood="svhn",
                clean=area(vectors, "clean id", "clean ood/svhn"),
                attacked=area(vectors, "clean id", f"{threat} ood/svhn"),
                verdict="holds",
            )
            for threat in attacked
        ]
        found = Baseline(
            created="2026-01-01T00:00:00+00:00",
            seed=0,
            precision="full",
            id=Source(name="cifar10", n=len(id_), sha256="a" * 64, source="test"),
            targets=None,
            ood=[Source(name="svhn", n=len(clean), sha256="b" * 64, source="test")],
            threats={threat: "c" * 64 for threat in attacked},
            detectors=["energy@ce"],
            networks={"ce": "d" * 64},
            versions={"oodattack": "0.1.0", "torch": "2.6.0"},
            cells=cells,
            scores={"energy@ce": ranked(vectors)},
        )
        return (found if scores else without_scores(found)).model_copy(update=fields)

    return make


def without_scores(found: Baseline) -> Baseline:
    bare = {"id": None, "ood": None}
    cells = [
        c.model_copy(update={k: getattr(c, k).model_copy(update=bare) for k in ("clean", "attacked")})
        for c in found.cells
    ]
    return found.model_copy(update={"cells": cells, "scores": {}})


@pytest.fixture
def drawn():
    """325 ID scores, 200 clean OOD scores with AUROC near 0.97, 200 attacked ones near 0.76."""
    draw = np.random.default_rng(0)
    id_, ood = draw.standard_normal(325), draw.standard_normal(200)
    return id_, ood + 2.7, ood + 1.0
