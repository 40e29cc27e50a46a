"""The run directory: made before any work, filled cell by cell."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from oodattack.evaluation import Shown
from oodattack.report.sheet import contact_sheet, sheet_path


@contextmanager
def run_directory(out: Path | None) -> Iterator[Path]:
    """Make the run directory, before any work is done; take it away again if the work fails and leaves it empty.

    Raises:
        ValueError: it cannot be written, or already holds a report.
    """
    folder = out or Path("oodattack-runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    if (folder / "report.json").exists():
        raise ValueError(
            f"`--out` must not hold a report yet, got {str(folder)!r}. Choose another folder, or remove it."
        )
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
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


def write_sheet(shown: Shown, out: Path) -> None:
    """Write one cell's contact sheet below the run directory."""
    path = sheet_path(shown.result, out)
    fields = shown._asdict()
    sheet = contact_sheet(fields.pop("result"), **fields)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise ValueError(f"{path}: contact sheet must be writable, got {error.strerror}. Change --out.") from None
