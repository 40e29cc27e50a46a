"""Scores of every row of a run, each vector once however many cells it stands in."""

from pathlib import Path

import numpy as np

from oodattack.gate.ranks import Rows
from oodattack.lookup import summary
from oodattack.report.record import Key
from oodattack.runs.evidence import INDEX, Side, inside, read_evidence


class Scores:
    """Score vectors by detector and name, and which of them each attacked cell has.

    Attributes:
        vectors: detector -> name -> scores, shape (N,).
        attacked: (detector, threat, OOD set) -> attacked set, "id" or "ood/NAME" -> name of its scores.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, dict[str, Rows]] = {}
        self.attacked: dict[Key, dict[str, str]] = {}

    def clean(self, detector: str, images: str, scores: Rows) -> None:
        """Add a detector's scores of a set before any attack."""
        self.vectors.setdefault(detector, {})[clean_name(images)] = scores

    def side(self, cell: Key, images: str, scores: Rows) -> None:
        """Add one attacked side of a cell; where another cell has the same scores they are kept once."""
        detector, threat, ood = cell
        mine = self.vectors.setdefault(detector, {})
        name = f"{threat} {images}"
        if name in mine and not np.array_equal(mine[name], scores):
            name = f"{threat} {images} against {ood}"
        mine[name] = scores
        self.attacked.setdefault(cell, {})[images] = name

    def names(self, cell: Key) -> tuple[str, str]:
        """Names of the ID and the OOD scores of an attacked cell: clean ones for a side that was left alone."""
        sides, ood = self.attacked.get(cell, {}), f"ood/{cell[2]}"
        return sides.get("id", clean_name("id")), sides.get(ood, clean_name(ood))


def clean_name(images: str) -> str:
    """What the scores of a set before any attack are called."""
    return f"clean {images}"


def scores_of_run(folder: Path) -> Scores | None:
    """The scores in a run directory, or None where there is no evidence.

    Raises:
        ValueError: the evidence is not as it was written.
    """
    if not (folder / INDEX).exists():
        return None
    evidence, scores = read_evidence(folder), Scores()
    for detector, sets in evidence.clean.items():
        for images, file in sets.items():
            scores.clean(detector, images, scores_in(folder, file))
    for cell in evidence.cells:
        for side in cell.sides:
            scores.side(cell.key, side.images, whole(folder, side))
    return scores


def whole(folder: Path, side: Side) -> Rows:
    """The scores of one attacked side, from all of its files."""
    return np.concatenate([scores_in(folder, file) for file in side.shards])


def scores_in(folder: Path, name: str) -> Rows:
    """The scores in one file of evidence; the images beside them are not read.

    Raises:
        ValueError: it cannot be read.
    """
    from safetensors import safe_open

    path = inside(folder, name)
    try:
        with safe_open(path, framework="np") as file:
            return np.asarray(file.get_tensor("scores"), dtype=np.float64)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise ValueError(f"{path}: must be a file of evidence, got {summary(error)}. Run again.") from None
