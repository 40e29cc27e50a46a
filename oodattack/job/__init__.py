"""From the words of a command line to the arguments of `evaluate`: data, networks and detectors by name.

Nothing is imported before it is used: `verify` must do without the code of the attacks.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from oodattack.job.ask import Job, Training

if TYPE_CHECKING:
    from oodattack.job.running import resume, run
    from oodattack.job.showing import gallery
    from oodattack.job.training import train
    from oodattack.job.verifying import verify

_HOMES = {
    "gallery": "oodattack.job.showing",
    "resume": "oodattack.job.running",
    "run": "oodattack.job.running",
    "train": "oodattack.job.training",
    "verify": "oodattack.job.verifying",
}

__all__ = ["Job", "Training", "gallery", "resume", "run", "train", "verify"]


def __getattr__(name: str) -> object:
    """Import a function on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'oodattack.job' has no attribute {name!r}")
