"""The run directory: made before any work, filled cell by cell."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile

from oodattack.data.disk import PREFIX
from oodattack.report.sheet import Shown, contact_sheet, sheet_path
from oodattack.runs.evidence import INDEX
from oodattack.runs.go_on import PLAN, how_to_go_on
from oodattack.runs.manifest import MANIFEST

PASSING = re.compile(rf".+\.\d+\.partial|{PREFIX}.*")  # files; see `replace_file` and `room_on_disk`

PARTS = ("journal", "inputs", "clean", "shards", "detectors")  # folders of a run that has not come to its report


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a run; the message says how to go on."""

    def __init__(self, folder: Path) -> None:
        on = (folder / PLAN).exists()
        kept = f"interrupted, what was finished is kept. Go on with: {how_to_go_on(folder)}"
        super().__init__(kept if on else "interrupted")


@contextmanager
def run_directory(out: Path | None) -> Iterator[Path]:
    """Make the run directory, before any work is done; take it away again if the work fails and leaves it empty.

    Raises:
        ValueError: it cannot be written, or holds something already.
    """
    folder = out or Path("oodattack-runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    unfinished = (folder / PLAN).exists() and not (folder / MANIFEST).exists()
    if (folder / "report.json").exists() and not unfinished:
        raise ValueError(
            f"`--out` must not hold a report yet, got {str(folder)!r}. Choose another folder, or remove it."
        )
    if unfinished:
        raise ValueError(
            f"`--out` must not hold an unfinished run, got {str(folder)!r}. "
            "Go on with --resume in place of --out, or choose another folder."
        )
    if folder.is_dir() and any(folder.iterdir()):  # a run that fails takes away what it wrote, by name
        raise ValueError(f"`--out` must be a new or empty folder, got {str(folder)!r} with files. Choose another.")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"`--out` must be a writable folder, got {str(folder)!r}: {error.strerror}. Choose another."
        ) from None
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # not empty: what was finished stays
            for place in made:
                place.rmdir()
        raise


def forget(folder: Path) -> bool:
    """Take away what a run that failed has written, unless a block of a search was finished; whether it did."""
    if any((folder / "journal").glob("*.block")):
        return False
    for name in PARTS:
        rmtree(folder / name, ignore_errors=True)
    for name in (PLAN, INDEX):
        (folder / name).unlink(missing_ok=True)
    return True


def tidy(folder: Path) -> None:
    """Take away what a killed run has left under names that do not last: half-written files, room for images."""
    for path in list(folder.rglob("*")):
        if PASSING.fullmatch(path.name) and path.is_file():
            with suppress(OSError):
                path.unlink()


def write_sheet(shown: Shown, out: Path) -> None:
    """Write one cell's contact sheet below the run directory."""
    path = sheet_path(shown.result, out)
    sheet = contact_sheet(shown)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise ValueError(f"{path}: contact sheet must be writable, got {error.strerror}. Change --out.") from None
