"""Write `docs/` anew from the package's tables and docstrings: `python -m docs.build`.

With `--check` nothing is written: it says what is out of date, and ends with 1 if anything is.
"""

import sys
from pathlib import Path

from docs.pages import (
    attacks,
    bounds,
    command_line,
    datasets,
    detectors,
    index,
    networks,
    objectives,
    python,
    report,
    threats,
)
from docs.pages.names import names_json

ROOT = Path(__file__).parent.parent


def files() -> dict[str, str]:
    """Path below the repository's root -> what it should hold."""
    return {
        "docs/README.md": index.text(),
        "docs/detectors.md": detectors.text(),
        "docs/attacks.md": attacks.text(),
        "docs/threat-models.md": threats.text(),
        "docs/objectives.md": objectives.text(),
        "docs/datasets.md": datasets.text(),
        "docs/bounds.md": bounds.text(),
        "docs/networks.md": networks.text(),
        "docs/python.md": python.text(),
        "docs/command-line.md": command_line.text(),
        "docs/report.md": report.text(),
        "oodattack/cli/names.json": names_json(),
    }


def stale(made: dict[str, str]) -> list[str]:
    """Files that do not hold what they should."""
    there = {name: ROOT / name for name in made}
    return [name for name, path in there.items() if not path.exists() or path.read_text("utf-8") != made[name]]


def main() -> int:
    """Write, or check."""
    made = files()
    changed = stale(made)
    for name in changed:
        print(name)
        if "--check" not in sys.argv:
            (ROOT / name).write_text(made[name], encoding="utf-8")
    return int(bool(changed) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
