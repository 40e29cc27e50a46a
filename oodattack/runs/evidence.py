"""What is evidence for a report, and in which files it is: the index of a run directory."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from oodattack.lookup import summary
from oodattack.report.record import Key, Record
from oodattack.runs import go_on

ROWS_A_FILE = 1024  # part of the format: row r of a set is in file r // 1024, in old run directories too
INDEX = "evidence.json"


class Side(Record):
    """One attacked side of a cell.

    Attributes:
        images: the set that was attacked, "id" or "ood/NAME", a key of `Evidence.inputs`.
        shards: files with its rows, in order.
    """

    images: str
    shards: list[str]


class Cell(Record):
    """One detector x threat x OOD set, with the sides of it that were attacked."""

    detector: str
    threat: str
    ood: str
    sides: list[Side]

    @property
    def key(self) -> Key:
        """What it is known by in a report."""
        return self.detector, self.threat, self.ood


class Evidence(Record):
    """The index: names to files, relative to the run directory.

    Attributes:
        inputs: set -> files with its images.
        clean: detector -> set -> file with its scores before any attack.
        cells: in the order of the report's results.
    """

    format: Literal[1] = 1
    inputs: dict[str, list[str]] = Field(default_factory=dict)
    clean: dict[str, dict[str, str]] = Field(default_factory=dict)
    cells: list[Cell] = Field(default_factory=list)


def read_evidence(folder: Path) -> Evidence:
    """Read the index of a run directory.

    Raises:
        ValueError: there is none, or it is not as it was written.
    """
    path = folder / INDEX
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except OSError as error:
        remedy = go_on.remedy(folder)
        raise ValueError(f"{path}: a finished run must have evidence, got {error.strerror}. {remedy}.") from None
    except ValidationError as error:
        raise ValueError(f"{path}: must be as it was written, got {summary(error)}. Run again.") from None


def part_name(first: int) -> str:
    """The end of the name of a file with the rows from `first` on."""
    return f"{first:08d}.safetensors"


def inside(folder: Path, name: str) -> Path:
    """A file of a run directory by the name that the index gives it.

    Raises:
        ValueError: it would be outside.
    """
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(
            f"{folder}: files must be inside the run directory, got {name!r}. It is not as it was written."
        )
    return path
