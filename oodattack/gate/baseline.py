"""The baseline: of a report, what a later one is compared with, in one JSON file small enough to commit."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from oodattack.diagnose import Verdict
from oodattack.gate.ranks import Ranked, Rows
from oodattack.report.record import Key, Record, Share, Source, in_words, whole_box_by_name
from oodattack.whole_file import write_file


class Area(Record):
    """One AUROC.

    Attributes:
        auroc: the area.
        n_id: ID images behind it.
        n_ood: OOD images behind it.
        id: which vector of the detector's scores the ID rows have, null where scores are not known.
        ood: the same for the OOD rows.
    """

    auroc: Share
    n_id: int = Field(ge=1)
    n_ood: int = Field(ge=1)
    id: str | None = None
    ood: str | None = None


class Cell(Record):
    """One detector x threat x OOD set; the detector by its full name, such as energy@greg.

    Attributes:
        whole_box: the attacker may use the whole box.
        reason: of the verdict; known of a report, and in no baseline.
    """

    detector: str
    threat: str
    ood: str
    whole_box: bool = Field(default_factory=whole_box_by_name)
    clean: Area
    attacked: Area
    verdict: Verdict
    reason: str = Field(default="", exclude=True)

    @property
    def key(self) -> Key:
        """What it is known by."""
        return self.detector, self.threat, self.ood

    @property
    def where(self) -> str:
        """The same in words."""
        return in_words(self.key)


class Baseline(Record):
    """What of a report decides whether a later one is worse.

    Attributes:
        created: when the report was.
        seed: of the run, and what follows is of its spec too.
        id: the in-distribution images, and so on.
        cells: in the order of the report's results.
        skipped: cells that were not run, with why: "detector, threat on ood" -> reason.
        scores: detector -> its scores, as ranks.
    """

    baseline: Literal[1] = 1
    created: str
    seed: int
    precision: str
    id: Source
    targets: Source | None
    ood: list[Source]
    starts: list[Source] = Field(default_factory=list)
    threats: dict[str, str]
    detectors: list[str]
    networks: dict[str, str]
    versions: dict[str, str]
    cells: list[Cell]
    skipped: dict[str, str] = Field(default_factory=dict)
    scores: dict[str, Ranked] = Field(default_factory=dict)

    def rows(self, detector: str, area: Area) -> tuple[Rows, Rows] | None:
        """ID and OOD scores behind an AUROC up to their scale, or None where they are not known.

        Raises:
            ValueError: they are not as they were written.
        """
        if area.id is None or area.ood is None:
            return None
        if detector not in self.scores:
            raise ValueError(f"`scores` must have those of {detector!r}, got none. Write the baseline anew.")
        id_rows, ood_rows = (self.scores[detector].vector(name) for name in (area.id, area.ood))
        if (len(id_rows), len(ood_rows)) != (area.n_id, area.n_ood):
            raise ValueError(
                f"`scores.{detector}` must have {area.n_id} and {area.n_ood} rows, got {len(id_rows)} and "
                f"{len(ood_rows)}. Write the baseline anew."
            )
        return id_rows, ood_rows

    def save(self, path: Path) -> None:
        """Write the file under another name first, so that nobody ever sees half of it.

        Raises:
            ValueError: it cannot be written, or would take the place of something that is no baseline.
        """
        check_replaceable(path)
        write_file(path, (self.model_dump_json(indent=1) + "\n").encode(), "baseline")


def check_replaceable(path: Path) -> None:
    """Raise ValueError where a file is that is no baseline: a report may be the work of hours."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return  # writing will tell
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "baseline" not in found:
        raise ValueError(
            f"`baseline` must be a baseline to be replaced, got another file at {str(path)!r}. Choose another place."
        )


def baseline_of(fields: dict[str, Any]) -> Baseline:
    """A baseline from what is in its file.

    Raises:
        ValueError: it is none; one line that names the field.
    """
    try:
        return Baseline.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"`{field}` must be as a baseline has it, got something else: {first['msg']}. Write it anew with --update."
        ) from None
