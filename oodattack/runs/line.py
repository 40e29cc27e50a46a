"""One line of a verification: what a report claims, and what comes out when it is computed again."""

import math
from typing import NamedTuple

CLOSE = 1e-9  # relative: the same numbers in the same order, but perhaps by another version of a library

MOST_CHARACTERS = 72  # characters of a value


class Line(NamedTuple):
    """What was compared, both values in words, and whether they agree.

    Attributes:
        what: in words.
        claimed: by the report.
        found: when it is computed again, or why it is not.
        agree: false where they differ.
        compared: false where nothing can be said.
    """

    what: str
    claimed: str
    found: str
    agree: bool
    compared: bool = True


def told(what: str, claimed: object, found: object) -> Line:
    """Two values that must be equal, numbers up to rounding."""
    return Line(what, text(claimed), text(found), same(claimed, found))


def open_question(what: str, claimed: object, why: str) -> Line:
    """A value that cannot be computed again, and why."""
    return Line(what, text(claimed), f"not compared: {why}", agree=True, compared=False)


def same(a: object, b: object) -> bool:
    """Whether two values agree; numbers in lists, tuples and dictionaries too."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-12)
    return a == b


def text(value: object) -> str:
    """A value in a table; a long one is cut."""
    words = f"{value:.6g}" if isinstance(value, float) else str(value)
    return words if len(words) <= MOST_CHARACTERS else f"{words[: MOST_CHARACTERS - 3]}..."
