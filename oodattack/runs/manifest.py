"""SHA-256 of every file of a run directory, written when everything else is."""

import json
from pathlib import Path

from oodattack.lookup import summary
from oodattack.runs import go_on
from oodattack.runs.plan import files_sha256
from oodattack.whole_file import write_file

MANIFEST = "manifest.json"
PASSING = ("journal", "gallery")  # folders that go when the run is finished, or come later


def write_manifest(folder: Path) -> None:
    """Hash all files, and write manifest.json."""
    files = files_sha256(folder, files_in(folder))
    write_file(folder / MANIFEST, (json.dumps({"format": 1, "files": files}, indent=1) + "\n").encode())


def files_in(folder: Path) -> list[str]:
    """All files of a run directory but the manifest and the journal, relative to it."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.as_posix() for path in found if path.parts[0] not in PASSING and path.as_posix() != MANIFEST]


def read_manifest(folder: Path) -> dict[str, str]:
    """File -> SHA-256 as claimed.

    Raises:
        ValueError: no manifest, or none as `write_manifest` writes it.
    """
    path = folder / MANIFEST
    try:
        files = json.loads(path.read_bytes())["files"]
    except OSError as error:
        remedy = go_on.remedy(folder)
        raise ValueError(f"{path}: a finished run must have a manifest, got {error.strerror}. {remedy}.") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: must be as it was written, got {summary(error)}. Run again.") from None
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise ValueError(f"{path}: `files` must be names and hashes, got something else. Run again.")
    return files
