"""What went wrong in code that is not ours, in one line."""

import os
import sysconfig
import traceback

from oodattack.lookup import summary

STANDARD = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
NOBODYS = tuple(os.path.join(path, "") for path in (os.path.dirname(__file__), *STANDARD))  # ours, and Python's
SITES = {"site-packages", "dist-packages"}


def fault(error: BaseException) -> str:
    """What a user's own code raised and where, " (mine.py, line 19)": its innermost line in no installed package."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not installed(frame.filename)]
    return summary(error) + (f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else "")


def own_words(error: BaseException) -> str | None:
    """The message of an error that this package raised itself, which says what to do; None of any other."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = isinstance(error, (ValueError, TypeError)) and bool(frames) and frames[-1].filename.startswith(NOBODYS[0])
    ours = ours and (frames[-1].line or "").startswith("raise ")  # not a call of ours that Python refused
    return " ".join(str(error).split()) if ours else None


def installed(file: str) -> bool:
    """Whether nobody here wrote a file: one of Python, of this package or of another one."""
    return file.startswith(("<", *NOBODYS)) or not SITES.isdisjoint(file.split(os.sep))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which need not be imported for this
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)
