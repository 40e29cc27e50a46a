"""Writing a file so that nobody ever sees half of it."""

import os
from contextlib import suppress
from pathlib import Path


def write(path: Path, text: str, name: str) -> None:
    """Write text under another name first, then give it its own; folders above are made.

    Args:
        path: of the file.
        text: what is to be in it.
        name: what the error calls it.

    Raises:
        ValueError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(
            f"`{name}` must be a file that can be written, got {str(path)!r}: {error.strerror}. Choose another."
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink()
