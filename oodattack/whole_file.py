"""Files that are whole or not there, whenever the power goes, and names for them."""

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

LONGEST_NAME = 60  # characters, without ending


def replace_file(path: Path, content: bytes) -> None:
    """Write under another name, then rename: whoever looks sees the old file or the new one. Folders above are made.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_file(path: Path, content: bytes, what: str = "") -> None:
    """`replace_file`, with one line for the user where it fails.

    Args:
        path: of the file.
        content: all of it.
        what: the option or the thing that the error is about; "" for the path alone.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        replace_file(path, content)
    except (OSError, ValueError) as error:  # pathlib raises the second for a path without a name
        rule, why = "must be a file that can be written, got", getattr(error, "strerror", None) or error
        line = f"`{what}` {rule} {str(path)!r}: {why}" if what else f"{path}: {rule} {why}"
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ValueError(f"{line}. {'Free some space.' if full else 'Choose another.'}") from error


def file_name(text: str) -> str:
    """A name that every file system takes, another one for each text.

    A colon becomes a tilde. Other signs that a file name cannot hold become hyphens; a name with such, or longer than
    `LONGEST_NAME`, gets a hash in front and keeps its end.
    """
    safe = "".join(c if c.isalnum() or c in "@+.-_" else "-" for c in text).strip(".") or "-"
    if safe == text.replace(":", "-") and len(safe) <= LONGEST_NAME:
        return text.replace(":", "~")
    return f"{hashlib.sha256(text.encode()).hexdigest()[:8]}-{safe[9 - LONGEST_NAME :]}"
