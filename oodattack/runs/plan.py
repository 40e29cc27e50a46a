"""The plan of a run: what it measures, written before any search, and what must not have changed when it goes on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from oodattack.identity import sha256_of_file
from oodattack.lookup import summary
from oodattack.report.record import Record
from oodattack.runs.evidence import inside
from oodattack.runs.go_on import PLAN
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, file_hash
from oodattack.threat.strict import Misfit
from oodattack.whole_file import write_file

KINDS: dict[str, type[ThreatModel] | type[Suite] | type[Sweep]] = {
    "threat model": ThreatModel,
    "suite": Suite,
    "sweep": Sweep,
}


class Dump(Record):
    """A threat as data: what it is, the hash of its content, and the content."""

    kind: Literal["threat model", "suite", "sweep"]
    sha256: str
    content: dict[str, Any]

    def threat(self) -> Threat:
        """The threat itself.

        Raises:
            ValueError: the content is not that of the hash.
        """
        try:
            found = KINDS[self.kind].model_validate_json(json.dumps(self.content))
        except (ValidationError, Misfit) as error:
            raise ValueError(
                f"`threats` must hold what a threat file does, got {summary(error)}. Start a new run."
            ) from None
        if file_hash(found) != self.sha256:
            raise ValueError(f"`threats` must have their hashes, got another for {found.name!r}. Start a new run.")
        return found


class Plan(Record):
    """What a run measures.

    Attributes:
        job: what was asked for, options by name.
        batch_size: rows of a block; `threads` that PyTorch computes with decide the last bits, as it does.
        threats: name -> content.
        files: weights and user code -> SHA-256 of the file.
        data: set -> number of images and SHA-256.
        detectors: name -> SHA-256 of what it was fitted to, null for user code.
        networks: name of the detector -> SHA-256 of the weights behind it.
        versions: of the packages that decide the numbers.
    """

    format: Literal[1] = 1
    job: dict[str, Any]
    batch_size: int
    threads: int
    threats: dict[str, Dump]
    files: dict[str, str]
    data: dict[str, str]
    detectors: dict[str, str | None]
    networks: dict[str, str]
    versions: dict[str, str]

    def sha256(self) -> str:
        """SHA-256 of all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write plan.json, with its own hash."""
        words = json.dumps(self.model_dump(mode="json") | {"sha256": self.sha256()}, indent=1) + "\n"
        write_file(folder / PLAN, words.encode())

    def check(self, now: Mapping[str, Mapping[str, object]], folder: Path) -> None:
        """Raise ValueError if anything is not as it was when the run began, naming the first field that differs.

        Args:
            now: some of the fields, as they are found now.
            folder: of the run.
        """
        then = self.model_dump(mode="json")
        for field, found in now.items():
            for key in [*then[field], *(key for key in found if key not in then[field])]:
                was, is_now = (told(where.get(key)) for where in (then[field], found))
                if was != is_now:
                    raise ValueError(
                        f"{folder / PLAN}: `{field}.{key}` must be as when the run began, {was}, got {is_now}. "
                        "Put it back, or start a new run."
                    )


def told(value: object) -> str:
    """A value of the plan in an error: of a threat its hash alone."""
    if isinstance(value, dict):
        value = value.get("sha256", value)
    return "none" if value is None else str(value)


def read_plan(folder: Path) -> Plan:
    """The plan in a run directory.

    Raises:
        ValueError: there is none, or it is not as it was written.
    """
    path = folder / PLAN
    try:
        raw = json.loads(path.read_bytes())
        said = raw.pop("sha256")
        plan = Plan.model_validate(raw)
    except OSError as error:
        raise ValueError(f"{path}: a run must have a plan, got {error.strerror}. Check the folder.") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: must be as it was written, got {summary(error)}. Start a new run.") from None
    if said != plan.sha256():
        raise ValueError(f"{path}: must be as it was written, got a change: `sha256` differs. Start a new run.")
    return plan


def dump(threat: Threat) -> Dump:
    """A threat as data."""
    kind = next(name for name, cls in KINDS.items() if isinstance(threat, cls))
    return Dump(kind=kind, sha256=file_hash(threat), content=json.loads(threat.model_dump_json()))  # type: ignore[arg-type]


def files_sha256(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files inside a run directory."""
    return {name: sha256_of_file(inside(folder, name)) for name in names}
