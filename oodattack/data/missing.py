"""Finding a published data set below --data-root, and what to say where it is not there."""

from pathlib import Path


def missing(name: str, title: str, page: str, expected: str, root: Path | None) -> ValueError:
    """The error for a data set that is not on disk: what to download, where from, and which option points to it.

    Args:
        name: as on the command line.
        title: what to download.
        page: where to find it.
        expected: a file or folder of it, below ROOT.
        root: ROOT; None where nobody named it.
    """
    if root is None:
        return ValueError(
            f"`{name}` must be on your disk, got no --data-root. "
            f"Download {title} ({page}) and name with --data-root the folder that holds {expected}."
        )
    return ValueError(
        f"`{name}` must lie below --data-root as {expected}, got nothing there in {root}. "
        f"Download {title} ({page}) to that folder, or name another with --data-root."
    )


def home_of(name: str, expected: str, root: Path | None) -> Path | None:
    """ROOT or ROOT/NAME, whichever has `expected` in it; None where neither has, or there is no ROOT."""
    homes = [] if root is None else [root, root / name]
    return next((home for home in homes if (home / expected).exists()), None)
