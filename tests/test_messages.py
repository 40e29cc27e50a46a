"""Error messages say what, rule, value and remedy: "`name` must <rule>, got <value>. <remedy>." """

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import oodattack

PACKAGE = Path(oodattack.__file__).parent
RULE = re.compile(r"must\b.*\. (\S.*[.?]|\{\})$", re.DOTALL)  # the sentence with "must", then another
WITHOUT_REMEDY = {"threat/model.py"}  # whose two lines are parts of a message


def messages(source: str) -> Iterator[str]:
    """Texts of `raise ValueError(...)` that are written out where they are raised, with {} for each value in them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind, text = node.exc.func, node.exc.args[0]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            if isinstance(kind, ast.Name) and kind.id == "ValueError" and all(map(is_text, parts)):
                yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)


def is_text(part: ast.expr) -> bool:
    return isinstance(part, ast.FormattedValue) or (isinstance(part, ast.Constant) and isinstance(part.value, str))


def without_remedy(source: str) -> list[str]:
    return [text for text in messages(source) if re.search(r"\bmust\b", text) and not RULE.search(text)]


def test_every_message_ends_with_a_remedy():
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    found = {file: texts for file, source in sources.items() if (texts := without_remedy(source))}
    assert {file: texts for file, texts in found.items() if file not in WITHOUT_REMEDY} == {}
    assert sum(len(list(messages(source))) for source in sources.values()) > 300


def test_a_message_without_a_remedy_is_caught():
    assert without_remedy("raise ValueError(f'`x` must be > 0, got {x}.')") == ["`x` must be > 0, got {}."]
    assert without_remedy("raise ValueError('`y` must be classes 0, 1, 2, ..., got ' f'{y}.') from None") != []
    assert without_remedy("raise ValueError(f'`x` must be > 0, got {x}. ' 'Make it larger.')") == []
    assert without_remedy("raise ValueError(f'`x` must be > 0, got {x}. {remedy}')") == []
    assert without_remedy("raise ValueError('the file is missing')\nraise TypeError('x must be a tensor')") == []
