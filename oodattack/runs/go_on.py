"""How a run that was not finished goes on."""

import shlex
from pathlib import Path

PLAN = "plan.json"  # written first: a folder without it holds no run


def how_to_go_on(folder: Path) -> str:
    """The command that goes on with a run."""
    return shlex.join(["oodattack", "run", "--resume", str(folder)])


def remedy(folder: Path) -> str:
    """What to do about a folder that lacks what a finished run has."""
    return f"Finish it: {how_to_go_on(folder)}" if (folder / PLAN).is_file() else "Check the path"
