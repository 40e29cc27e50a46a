"""A report in a file: written in the format that the file's name promises, read from JSON."""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from oodattack.report.record import Report
from oodattack.whole_file import replace_file

OTHERS = (".tsv", ".md", ".txt", ".xlsx", ".pdf", ".yaml", ".yml")  # formats that nobody should find JSON in
QUOTED = 60  # characters of a wrong value in an error


def write(report: Report, path: Path) -> None:
    """What `Report.save` does."""
    if path.is_dir():
        raise ValueError(f"{path}: report must be a file, got a folder. Name a file in it.")
    text_of = writer(path)
    try:
        replace_file(path, text_of(report).encode())
    except OSError as error:
        raise ValueError(f"{path}: report must be writable, got {error.strerror}. Choose another place.") from None


def writer(path: Path) -> Callable[[Report], str]:
    """What makes the text of a file with that name; ValueError for one that promises another format."""
    ending = path.suffix.lower()
    if ending in (".html", ".htm"):
        from oodattack.report.page import page

        return page
    if ending in (".csv", ".tex"):
        from oodattack.report.export import csv_text, tex_text

        return csv_text if ending == ".csv" else tex_text
    if ending in OTHERS:
        raise ValueError(f"{path}: report must be named .json, .html, .csv or .tex, got {ending}. Name it so.")
    return Report.json_text


def read_report(path: str | Path) -> Report:
    """Read report.json.

    Raises:
        ValueError: no such file, or not a report of this schema; one line that names the field.
    """
    try:
        return Report.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: report must be readable, got {error.strerror}. Check the path.") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(
            f"{path}: `{field}` must fit the report schema, got {_short(first['input'])}: {first['msg']}. "
            "Write the report anew with this version."
        ) from None


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."
