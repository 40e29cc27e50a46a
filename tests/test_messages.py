"""Error messages say what, rule, value and remedy: "`name` must <rule>, got <value>. <remedy>." """

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import oodattack

PACKAGE = Path(oodattack.__file__).parent
SPEAKS = re.compile(r"\b(must|got)\b")  # what a rule and a value are told by
REMEDY = re.compile(r"\. (\S.*[.?]|\{\})$", re.DOTALL)  # after the sentence with them, another one
NOT_WHOLE = {  # texts that are parts of a message, in which another text ends with a remedy
    "evaluation/declared.py": 3,  # rules
    "lookup.py": 1,  # a rule, before which the name that was meant may stand
    "threat/files.py": 1,  # a rule
    "threat/model.py": 4,  # complaints about one field, which `Strict` completes
    "threat/strict.py": 2,  # rules
    "whole_file.py": 1,  # a rule
}
NO_ERRORS = {  # texts that ask nothing of a user
    "attacks/torchattacks_classifier.py": 1,  # of an assertion
    "cli/options.py": 2,  # of click, which ends no sentence
    "diagnose.py": 1,  # a reason of a verdict
    "gate/robust.py": 1,  # a failure of a test
    "report/page_words.py": 1,  # of the page
    "report/record.py": 1,  # of the schema
}


def messages(source: str) -> Iterator[str]:
    """Texts that have a rule or a value in them, however they reach an error, with {} for whatever is filled in."""
    return (text for text in texts(ast.parse(source)) if SPEAKS.search(text))


def texts(node: ast.AST) -> Iterator[str]:
    """Texts as they are written, the longest that can be put together; docstrings are left out."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if found := written(node):
        yield from found
        return
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def written(node: ast.AST) -> list[str]:
    """What a text may be: one, or several where it is chosen; none where this is no text."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = written(node.left), written(node.right)
        return [a + b for a in left or ["{}"] for b in right or ["{}"]] if left or right else []
    if isinstance(node, ast.IfExp):
        either, other = written(node.body), written(node.orelse)
        return [*(either or ["{}"]), *(other or ["{}"])] if either or other else []
    return []


def without_remedy(source: str) -> list[str]:
    return [text for text in messages(source) if not REMEDY.search(text[SPEAKS.search(text).start() :])]


def test_every_message_ends_with_a_remedy():
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    found = {file: texts for file, source in sources.items() if (texts := without_remedy(source))}
    assert {file: texts for file, texts in found.items() if len(texts) != (NOT_WHOLE | NO_ERRORS).get(file)} == {}
    assert set(found) == {*NOT_WHOLE, *NO_ERRORS}
    assert sum(len(list(messages(source))) for source in sources.values()) > 600


def test_a_message_without_a_remedy_is_caught():
    assert without_remedy("raise ValueError(f'`x` must be > 0, got {x}.')") == ["`x` must be > 0, got {}."]
    assert without_remedy("raise ValueError('`y` must be classes 0, 1, 2, ..., got ' f'{y}.') from None") != []
    assert without_remedy("raise ValueError(f'`x` must be > 0, got {x}. ' 'Make it larger.')") == []
    assert without_remedy("raise ValueError(f'`x` must be > 0, got {x}. {remedy}')") == []
    assert without_remedy("raise ValueError('the file is missing')\nraise TypeError('x is no tensor')") == []


def test_a_message_is_seen_however_it_is_built():
    for code in (
        "raise FloatingPointError(f'the loss must be finite, got {x}.')",
        "raise TypeError(f'`x` must be a tensor, got {x}.')",
        "raise Misfit('`x` ' + verb + f' one of a, b, got {x}.')",
        "raise ValueError(f'`x` {verb} one of a, b, got {x}.')",
        "why = f'`x` must be > 0, got {x}.'\nraise ValueError(why)",
        "def wrong(x):\n    return ValueError(f'`x` must be > 0, got {x}.')",
        "raise ValueError('`x` must be > 0.' if known else f'{x} is unknown. Give another.')",
        "fail('`x` must be > 0, got ' + str(x))",
    ):
        assert len(without_remedy(code)) == 1, code
    assert (
        without_remedy("def f(x):\n    '''`x` must be > 0.'''\n    raise ValueError('`x` must be > 0' + '. Raise it.')")
        == []
    )
