"""docs/ says what the package's tables and docstrings say, and reads well: formulas, links, signatures."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import oodattack
from docs.build import files, stale
from docs.pages.docstrings import parsed
from docs.pages.entry import differs
from docs.pages.formulas import marked
from docs.pages.markdown import Anchors, prose, table
from docs.pages.source import file_of, made_by, signature
from oodattack import detectors
from oodattack.attacks import ATTACKS
from oodattack.data import DATASETS
from oodattack.detectors import DETECTORS
from oodattack.models import MODELS
from oodattack.objectives import OBJECTIVES
from oodattack.threat import ThreatModel, presets

ROOT = Path(__file__).parent.parent
MADE = files()
PAGES = {name: text for name, text in MADE.items() if name.endswith(".md")}


def test_up_to_date():
    assert stale(MADE) == [], "write them anew: python -m docs.build"


def test_what_is_stale_is_seen():
    changed = MADE | {"docs/README.md": MADE["docs/README.md"] + " ", "docs/nowhere.md": ""}
    assert set(stale(changed)) - set(stale(MADE)) == {"docs/README.md", "docs/nowhere.md"}


def test_nothing_is_left_over():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} == set(PAGES)


NAMED = {
    "detectors": DETECTORS, "attacks": ATTACKS, "objectives": OBJECTIVES, "datasets": DATASETS, "networks": MODELS,
    "threat-models": presets(), "python": oodattack.__all__,
}  # fmt: skip


@pytest.mark.parametrize("page", NAMED)
def test_everything_is_there(page):
    text = PAGES[f"docs/{page}.md"]
    left_out = [n for n in NAMED[page] if f"`{n}`" not in text and f"\n## {n}\n" not in text]
    assert left_out == []


@pytest.mark.parametrize("page", ["detectors", "attacks", "objectives"])
def test_each_has_formula_or_words_and_source(page):
    sections = dict(re.findall(r"^## ([a-z0-9+-]+)\n(.*?)(?=^## |\Z)", PAGES[f"docs/{page}.md"], flags=re.S | re.M))
    for name in NAMED[page]:
        if name != "ce":  # torch's own
            assert "```python" in sections[name] and f"Source: [`oodattack/{page}/" in sections[name], name


def test_bounds_are_listed_for_those_who_have_them():
    """One class of the table of bounds for each row, told from the detectors that rows really build."""
    listed = set(re.findall(r"^\| \[`([a-z+-]+)`\]", PAGES["docs/bounds.md"], flags=re.M))
    assert {"energy", "odin", "odin-tuned", "mahalanobis"} <= listed <= set(DETECTORS)
    assert not listed & {"mahalanobis-layers", "gram", "si-z", "si-z+max-logit"}


def test_every_field_of_the_report_is_explained():
    """Where this fails, give the field a description, or words in docs/pages/report.py."""
    assert re.findall(r"^\| `\w+` \| .* \|  \|$", PAGES["docs/report.md"], flags=re.M) == []


def headings(text: str) -> set[str]:
    """The anchors of a page, as code-hosting sites make them."""
    anchors = Anchors()
    return {
        anchors.of(line.lstrip("# "))
        for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines()
        if line[:1] == "#"
    }


BY_HAND = ["README.md", *(f"docs/guides/{page.name}" for page in (ROOT / "docs" / "guides").glob("*.md"))]


@pytest.mark.parametrize("name", [*PAGES, *BY_HAND])
def test_links_lead_somewhere(name):
    text = PAGES.get(name) or (ROOT / name).read_text("utf-8")
    targets = re.findall(r'<a href="([^"]*)"', MarkdownIt("commonmark").enable("table").render(text))
    assert targets
    for target in targets:
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path.read_text("utf-8")), target


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_taken_for_markup(name):
    html = MarkdownIt("commonmark").enable("table").render(PAGES[name])
    assert "<em>" not in html  # the pages never use it: it would be an asterisk of a formula
    for line in PAGES[name].splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    rows = [row.count("<td") for row in re.findall(r"<tr>.*?</tr>", html, flags=re.S) if "<td" in row]
    assert all(2 <= n <= 6 for n in rows)


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("Free energy, eq. (4): E(x) = -T log sum_k exp(f_k(x) / T).", ["E(x) = -T log sum_k exp(f_k(x) / T)"]),
        (
            "score = sum_l d_l / scale_l / max softmax, with d_l the",
            ["score = sum_l d_l / scale_l / max softmax", "d_l"],
        ),
        (
            "z = P(x_t + step), x_{t+1} = P(x_t + m (z - x_t) + (1 - m)(x_t - x_{t-1})).",
            ["z = P(x_t + step)", "x_{t+1} = P(x_t + m (z - x_t) + (1 - m)(x_t - x_{t-1}))"],
        ),
        ("(low - s) / |low| below the band, 0 inside", ["(low - s) / |low|"]),
        ("min_k (z - mu_k)^T P (z - mu_k), eq. (2) of", ["min_k (z - mu_k)^T P (z - mu_k)"]),
        ("||z - z_(k)||^2, where z is", ["||z - z_(k)||^2"]),
        ("shape (B, C, H, W), values in [0, 1].", []),
        ("a step of 0.5 - or less, see section 3.1", []),
        ("a GAIA-Z over two steps (or three)", []),
        ("x_t = x + uniform draw in the ball", []),  # half a formula is none
        ("h = g / ||g|| (sign of it for linf)", ["h = g / ||g||"]),
        ("already `code = 1` here", ["code = 1"]),
        ("", []),
    ],
)
def test_formulas(text, formulas):
    assert re.findall(r"`([^`]*)`", marked(text)) == formulas
    assert marked(text).replace("`", "") == text.replace("`", "")


def test_prose():
    assert (
        prose("any * mark_ x_t, arXiv:1706.02690.")
        == r"any \* mark\_ `x_t`, [arXiv:1706.02690](https://arxiv.org/abs/1706.02690)."
    )
    assert prose("a [b](c) <i>") == r"a [b\](c) \<i>"
    assert table(["a"], [["`x|y`"]]) == "| a |\n| --- |\n| `x\\|y` |"


DOCSTRING = """What it does, eq. (1):
    in two lines.

    More.

        code(1)

    - one
    - two

    Args:
        x: shape (B,), which is
            continued.
        y: plain.

    Returns:
        Scores: all of
        them.

    Raises:
        ValueError: never.

    Differs from the paper: nothing. Differs from the authors' code: all
    of it.
    """


def test_docstrings():
    said = parsed(DOCSTRING)
    assert said.text == ["What it does, eq. (1): in two lines.", "More.", "    code(1)", "- one\n- two"]
    assert said.sections == {
        "Args": [("x", "shape (B,), which is continued."), ("y", "plain.")],
        "Returns": [("", "Scores: all of them.")],
        "Raises": [("ValueError", "never.")],
    }
    assert said.differs == ["Differs from the paper: nothing.", "Differs from the authors' code: all of it."]
    assert parsed(None) == ([], {}, [])


SEVEN = 7


def several(a, /, b: int = SEVEN, *rest: str, c: "list[int]", d=None, **more) -> "str | None":
    """Something to call."""


@dataclass
class Held:
    """Something that is its fields."""

    x: int
    y: float = field(default=0.5, kw_only=True)
    spent: int = field(default=0, init=False)


def test_a_difference_has_its_first_words_set_apart():
    assert differs("Differs from the paper: nothing.") == "**Differs from the paper**: nothing."
    madrys = differs("Differs from Madry's network (arXiv:1706.06083): leaky ReLUs.")
    assert (
        madrys
        == "**Differs from Madry's network ([arXiv:1706.06083](https://arxiv.org/abs/1706.06083))**: leaky ReLUs."
    )


def test_radii_of_suites_read_as_those_of_files():
    page = PAGES["docs/threat-models.md"]
    assert "| [`flagship`](../threat_models/flagship.toml) | hide | linf 8/255 |" in page


def test_signatures():
    assert signature(Held, "H") == "H(x: int, *, y: float = 0.5)"
    assert signature(several, "f") == ("f(a, /, b: int = 7, *rest: str, c: list[int], d = None, **more) -> str | None")
    assert signature(detectors.Energy, "E") == "E(net: Classifier, *, temperature: float = 1.0)"
    assert signature(oodattack.Detector, "oa.Detector") == "detector(x: Tensor, /) -> Tensor"
    assert signature(oodattack.Surrogate, "S").startswith("S(name: str, score: Score,")
    assert "    eps: Number,\n" in signature(ThreatModel, "T")


def test_what_a_row_is_made_of():
    assert made_by(DETECTORS["energy"].build, detectors) == [detectors.Energy]
    assert made_by(DETECTORS["knn"].build, detectors) == [detectors.fit_knn, detectors.KNN]
    assert file_of(detectors.Energy) == "oodattack/detectors/energy.py"


def test_anchors():
    anchors = Anchors()
    assert [anchors.of(name) for name in ("sal-agg+mls", "greg", "greg+", "What it is")] == [
        "sal-aggmls", "greg", "greg-1", "what-it-is",
    ]  # fmt: skip
