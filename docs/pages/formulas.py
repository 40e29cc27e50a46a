"""Where formulas begin and end in a docstring's plain text, so that a page can set them apart."""

import re

OPERATORS = frozenset("= - + / * < > <= >= != <- ~ -> ^ |".split())
NAMES = frozenset(
    "log exp sum mean max min sqrt relu softmax sign clamp arg argmin argmax logsumexp sigmoid steepest "
    "alpha beta gamma delta eps eta grad lambda mu rho sigma tau".split()
)
NUMBER = re.compile(r"[-+]?\.?\d+(\.\d+)?%?|\w{1,3}/\w{1,3}")  # 0.5, 1/K
SYMBOL = re.compile(r"[-+]?[A-Za-z]'?")  # f, -T
STRUCTURE = re.compile(r"\w[_^]\{?\w|\w\(+-?\w|\|\||\)\^|^\|\w+\|$|\)\(")  # f_k, x^2, log(x, ||, |low|
OPEN_END = re.compile(r"\|?(mean|sum|max|min|log|exp)(_\w+)?")  # of something that should follow
AROUND = "()[]{}|-"


def marked(text: str) -> str:
    """The text with its formulas as code, between backticks; what is code already stays."""
    return "".join(part if i % 2 else _marked(part) for i, part in enumerate(re.split(r"(`[^`]*`)", text)))


def _marked(text: str) -> str:
    words = re.split(r"(\s+)", text)  # words at even places, spaces between
    out, i = [], 0
    while i < len(words):
        end = run_end(words, i) if i % 2 == 0 else None
        if end is None:
            out.append(words[i])
            i += 1
            continue
        inside = "".join(words[i:end])
        bare = inside.rstrip(".,;:")
        out.append(f"`{bare}`{inside[len(bare) :]}")
        i = end
    return "".join(out)


def run_end(words: list[str], start: int) -> int | None:
    """Where the formula ends that begins at a word, or None: none begins there."""
    depth, last, operators, counted = 0, None, 0, 0  # last: behind the last operand at which no bracket is open
    for i in range(start, len(words), 2):
        word = words[i].rstrip(".,;:")
        if word in OPERATORS:
            operators += 1
            continue
        inside = depth > 0 or word.startswith("(")
        if not (mathematical(word, inside=inside) or leads_on(words, i, inside=inside)):
            break
        depth = depth_behind(word, depth)
        if depth < 0:
            break
        if depth == 0:
            last, counted = i + 1, operators
            if word != words[i]:
                break
    signs = counted or any(STRUCTURE.search(word) for word in words[start:last:2])  # of a formula: =, x_t
    if last is None or not signs or words[start] in OPERATORS or goes_on(words, start, last):
        return None
    return last


def goes_on(words: list[str], start: int, end: int) -> bool:
    """Whether a formula goes on in words that are none of mathematics: half of one is not set apart."""
    punctuated = words[end - 1] != words[end - 1].rstrip(".,;:")
    follows = words[end + 1] if end + 1 < len(words) and not punctuated else ""
    return follows in OPERATORS or (end > start + 1 and OPEN_END.fullmatch(words[end - 1].rstrip(".,;:")) is not None)


def depth_behind(word: str, depth: int) -> int:
    """How many brackets are open behind a word; negative where it closes one that is not open."""
    for c in word:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return depth
    return depth


def mathematical(word: str, *, inside: bool) -> bool:
    """Whether a word is part of a formula; a letter that is a word too only inside brackets."""
    core = word.strip(AROUND)
    if not inside and word in ("a", "A", "I"):
        return False
    return bool(core in NAMES or NUMBER.fullmatch(core) or SYMBOL.fullmatch(core) or STRUCTURE.search(word))


def leads_on(words: list[str], i: int, *, inside: bool) -> bool:
    """Whether an ordinary word stands between operators, beside one in brackets, or before an equals sign."""
    if not words[i].rstrip(".,;:").strip(AROUND).isalpha():
        return False
    before, after = words[i - 2] if i >= 2 else "", words[i + 2] if i + 2 < len(words) else ""
    if inside:
        return before in OPERATORS or after in OPERATORS
    return words[i].isalpha() and (after == "=" or (after in OPERATORS and before in OPERATORS))
