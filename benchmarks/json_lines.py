"""Results as JSON lines: one object a line, appended as soon as it is known, so that a run can be cut and resumed."""

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """All lines of a file; none where there is no file."""
    if not path.exists():
        return []
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> list[Line]:
    """The objects of a text, one a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def append(path: Path | None, line: Line) -> None:
    """Print a line and, where a file is given, append it."""
    text = json.dumps(line)
    print(text, flush=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def find(lines: list[Line], key: Line) -> Line | None:
    """The newest line that agrees with `key` in all its fields and did not fail."""
    same = [line for line in lines if all(line.get(k) == v for k, v in key.items()) and "failed" not in line]
    return same[-1] if same else None
