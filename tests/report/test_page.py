"""The report as a page: complete, escaped, the same every time, and alive in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import torch
from browser import CHROMIUM, LOOK_INSIDE, NO_BROWSER, browse
from PIL import Image

from oodattack.evaluation import evaluate
from oodattack.report import Curve, Overlap
from oodattack.report.charts import STYLES, even, swatch
from oodattack.report.charts_lines import eps_axis, queries_axis
from oodattack.report.charts_rows import BINS, ends, latent_scatter, mape_histogram, middle, score_histograms, shares_of
from oodattack.report.page import Rows, Sheet, page
from oodattack.report.page_maps import Maps
from oodattack.report.page_words import headlines, sanity, tally
from oodattack.threat import ThreatModel

EVIL = "<script>alert(1)</script>"
FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=10,
    restarts=1, iterate="best", source="test",
)  # fmt: skip
PDFTOTEXT = shutil.which("pdftotext")
VOID = {"meta", "link", "input", "img", "br", "path"}  # elements that nothing closes


class Plain(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1).mean(1)


@pytest.fixture(scope="module")
def report():
    generator = torch.Generator().manual_seed(0)
    id_ = 0.5 * torch.rand(8, 1, 4, 4, generator=generator)
    threats = [
        ThreatModel(name="linf-small", **(FIELDS | {"eps": 0.03})),  # holds
        ThreatModel(name="strong", **(FIELDS | {"eps": 0.9})),  # broken
        ThreatModel(name="own-full-box", **(FIELDS | {"eps": 1.0})),
        ThreatModel(name="blind", **(FIELDS | {"attack": "random-search", "eps": 0.01})),  # inconclusive
    ]
    detectors = {"plain@net": Plain().eval(), "mine": Plain().eval()}
    found = evaluate(detectors, id=id_, ood={"near": id_ + 0.4}, threats=threats, seed=0)
    certified = found.results[0].model_copy(update={"certified_auroc": 0.125})
    return found.model_copy(update={"results": [certified, *found.results[1:]]})


def named(report, name: str):
    """The same report of a detector, a set, ... that is called `name`."""
    results = [r.model_copy(update=dict(detector=name, network=name, ood=name, reason=name)) for r in report.results]
    curves = [c.model_copy(update=dict(detector=name, network=name, ood=name, threat=name)) for c in report.curves]
    spec = report.spec.model_copy(
        update=dict(
            command=name,
            id=report.spec.id.model_copy(update={"name": name, "source": name}),
            overlaps=[Overlap(first=name, second=name, images=2)],
            fingerprints={name: None},
        )
    )
    return report.model_copy(update={"results": results, "curves": curves, "spec": spec})


def rows(report) -> dict:
    scores = ([0.1, 0.2, 0.3], [0.4, 0.5])
    return {
        r.key: Rows(scores, ([0.1, 0.2, 0.3], [0.2, 0.25]), [0.01, 0.02], ([1, 2], [1, 2.5])) for r in report.results
    }


def wide_picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (956, 60)).save(out, format="PNG")
    return out.getvalue()


def full(report) -> str:
    sheets = {r.key: Sheet(f"sheets/{i}.png", wide_picture() if i else None) for i, r in enumerate(report.results)}
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = Maps("a map", x, x[:, 0], torch.arange(2.0), x, x[:, 1], torch.arange(2.0))
    return page(report, rows(report), sheets, {r.key: maps for r in report.results[:2]})


class Balanced(HTMLParser):
    """Fails where an element is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.ids += [v for k, v in attrs if k == "id"]


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_well_formed_and_needs_no_network(report):
    found = parsed(full(report))
    assert len(set(found.ids)) == len(found.ids)
    assert all(link.startswith(("#", "data:", "sheets/")) for link in found.links), found.links
    assert not re.search(r"url\(|@import|<iframe|<object", full(report))


def test_same_report_same_bytes(report):
    assert full(report) == full(report.model_validate_json(report.json_text()))


def test_everything_is_there(report):
    text = full(report)
    for result in report.results:
        for words in (result.key[0], result.threat, result.ood, result.attack, f"{result.attacked.auroc:.3f}"):
            assert words in text
        assert result.reason.replace("'", "&#39;") in text
    assert "AUROC certified" in text and ">0.125<" in text
    for digest in (report.spec.id.sha256, *report.spec.threats.values()):
        assert digest in text
    for name, version in report.versions.items():
        assert f"{name} {version}" in text
    assert text.count("Histogram of MAPE") == len(report.results)
    assert text.count(base64.b64encode(wide_picture()).decode()) == len(report.results) - 1
    assert text.count("Saliency maps, row by row: a map of 2 images") == 2
    assert '<a href="sheets/0.png">' in text


def test_start_images_are_there(report):
    (near,) = report.spec.ood
    noise = near.model_copy(update={"name": "noise", "n": 200, "sha256": "5" * 64})
    beside = page(report.model_copy(update={"spec": report.spec.model_copy(update={"starts": [noise, near]})}))
    assert f"Out-of-distribution: {near.n} of near. Start images: 200 of noise. Written" in beside
    assert "5" * 64 in beside and beside.count(near.sha256) == 1
    alone = page(report.model_copy(update={"spec": report.spec.model_copy(update={"ood": [], "starts": [noise]})}))
    assert "Out-of-distribution" not in alone and "Start images: 200 of noise. Written" in alone


def test_what_is_not_known_is_left_out(report):
    plain = report.model_copy(update={"results": report.results[1:], "curves": []})
    text = page(plain)
    assert "AUROC certified" not in text and "Histogram" not in text and "Along the search" not in text
    assert "Nothing was measured" in page(report.model_copy(update={"results": [], "curves": []}))


def test_no_name_is_markup(report):
    text = full(named(report, EVIL))
    assert EVIL not in text
    assert text.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    quoted = full(named(report, "\" onmouseover='x'"))
    assert "\" onmouseover='x'" not in quoted
    parsed(text), parsed(quoted)


def test_charts_are_valid_and_have_text_alternatives(report):
    drawings = re.findall(r"<svg (?!class)[^>]*>.*?</svg>", full(named(report, EVIL)), re.S)
    assert len(drawings) == 3 * len(report.results) + 1  # all curves have one name now
    for drawing in drawings:
        svg = ET.fromstring(drawing)
        title, description = svg.get("aria-labelledby").split()
        texts = {node.get("id"): node.text for node in svg if node.get("id")}
        assert texts[title] and texts[description] and svg.get("role") == "img"


def test_lines_differ_without_colour():
    shapes = [re.sub(r" s\d", "", str(swatch(i))) for i in range(4 * STYLES)]
    assert len(set(shapes)) == len(shapes)


def test_a_curve_has_a_line_with_its_points(report):
    curve = Curve(
        detector="a", network="b", threat="radii", ood="near", against="eps", points=[(0, 1.0), (0.5, 0.5), (1, 0)],
        exact=True, eps50=0.5,
    )  # fmt: skip
    text = page(report.model_copy(update={"curves": [curve]}))
    # plot area: x from 46 to 428, y from 238 (AUROC 0) to 12 (AUROC 1)
    assert 'd="M46 12L237 125L428 238"' in text
    assert "a@b, 0.5 left at eps 0.5" in text
    assert "a@b, 0.5 left at eps 0.5: 1.000 to 0.000" in text


def test_a_sweep_is_one_chart_and_said_not_to_count(report):
    like = dict(detector="plain", network="net", ood="near", exact=True, eps50=None)
    radii = [Curve(threat=f"radii@{e}", against="queries", points=[(0, 1), (5, 0.5)], **like) for e in (0.1, 0.2)]
    curves = [*report.curves, *radii, Curve(threat="radii", against="eps", points=[(0, 1), (0.2, 0.5)], **like)]
    swept = [r.model_copy(update={"threat": f"radii@{e}"}) for r in report.results[:1] for e in (0.1, 0.2)]
    found = report.model_copy(update={"curves": curves, "results": [*report.results, *swept]})
    (plain, mine) = headlines(found)
    assert plain.sentences[-1] == "Not counted: the radii of radii; see AUROC against eps."
    assert "Not counted" not in " ".join(mine.sentences)
    text = page(found)
    parsed(text)
    shown, folded = text[text.index("Along the search") :].split("Each radius against queries: 2 charts")
    folded = folded[: folded.index("</section>")]
    assert "<figcaption>AUROC against eps: radii on near" in shown and "<figcaption>AUROC against eps" not in folded
    assert "radii@0.1 on near</figcaption>" in folded and "radii@0.1 on near</figcaption>" not in shown


def test_how_near_and_another_question_do_not_count_beside_others(report):
    own = report.results[0].model_copy(update={"verdict": "holds"})
    near = own.model_copy(update={"threat": "fmn", "direction": "cross", "verdict": "broken"})
    other = own.model_copy(update={"threat": "adex", "verdict": "inconclusive", "indicators": {"id_against_id": True}})
    says = lambda *results: headlines(report.model_copy(update={"results": list(results)}))[0].verdict
    assert says(own, near, other) == says(own) == "holds"
    assert says(near) == "broken" and says(other) == "inconclusive"


def test_axes_by_hand():
    assert even(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert even(-3, 40) == [0, 10, 20, 30, 40]
    assert even(2, 2) == [2]
    assert even(0, 2e-20) == [0, 5e-21, 1e-20, 1.5e-20, 2e-20]
    assert even(1e6, 1e6 + 4e-7) == pytest.approx([1e6 + i * 1e-7 for i in range(5)], rel=1e-15)
    assert queries_axis(63).at(7) == 0.5  # log2(8) / log2(64)
    assert queries_axis(63).ticks == [0, 1, 3, 10, 30]
    assert eps_axis(0.2).at(0.05) == 0.25
    assert eps_axis(0.2).at(9) == 1


def test_histograms_by_hand():
    shares = shares_of([0.0, 0.01, 0.99, 5.0], 0.0, 1.0)
    assert len(shares) == BINS
    assert (shares[0], shares[-1], sum(shares)) == (0.5, 0.5, 1.0)
    assert ends([1.0, 2.0, float("inf")]) == (1.0, 2.0)
    assert ends([3.0, 3.0]) == (2.5, 3.5)
    assert ends([0.0] * 2 + [0.5] * 98 + [1.0] * 98 + [9.0] * 2) == (0.5, 1.0)  # a percent at each end is cut
    assert middle([3.0, 1.0, 2.0]) == 2.0


@pytest.mark.parametrize("odd", [float("inf"), -float("inf"), float("nan"), 1e308, 0.0])
def test_odd_numbers_can_be_drawn(odd):
    for drawing in (
        score_histograms("a", ([odd, 1.0], [odd]), ([2.0], [odd, odd]), odd),
        mape_histogram("b", [odd, 0.5]),
        latent_scatter("c", [odd, 1.0], [odd, 1.5]),
        latent_scatter("d", [odd], [odd]),
    ):
        ET.fromstring(drawing)
        numbers = re.findall(r' (?:d|x|y|transform)="([^"]*)"', drawing)
        assert numbers and not any(word in text for text in numbers for word in ("nan", "inf"))


def test_headlines(report):
    plain, mine = headlines(report)
    assert (plain.name, mine.name) == ("plain@net", "mine")
    assert plain.verdict == "broken"
    assert plain.sentences[0] == "Of 3 attacks: 1 breaks it, 1 is inconclusive, it holds against 1."  # sanity left out
    strong = next(r for r in report.results if r.threat == "strong")
    assert f"becomes {strong.attacked.auroc:.3f} (strong on near)" in plain.sentences[1]
    assert plain.sentences[1].startswith("Under the strongest attack, AUROC ")
    (near, *_) = report.results
    match = near.model_copy(update={"threat": "m", "direction": "match", "verdict": "broken"})
    both = headlines(report.model_copy(update={"results": [near, match]}))[0].sentences
    assert both[1].startswith("Under the strongest search on the score, ") and both[2].startswith("Matching ID images,")
    weak = [r for r in report.results if r.threat != "strong"]
    assert headlines(report.model_copy(update={"results": weak}))[0].verdict == "inconclusive"
    assert headlines(report.model_copy(update={"results": weak[:1]}))[0].verdict == "holds"


def test_only_the_whole_box_must_fall(report):
    kinds = {"linf-small": "sanity-random", "blind": "sanity-mine"}  # at small radii, the second of the user
    renamed = [r.model_copy(update={"threat": kinds.get(r.threat, r.threat)}) for r in report.results]
    found = report.model_copy(update={"results": renamed})
    whole = max(r.attacked.auroc for r in renamed if r.threat == "own-full-box")
    assert whole <= 0.5 < max(r.attacked.auroc for r in renamed if r.threat == "sanity-random")
    assert sanity(found) == (
        "sanity-random, own-full-box: a check of the search that counts nowhere above; the whole box left AUROC "
        f"{whole:.3f} at most, as it must be where a search works."
    )
    assert headlines(found)[0].sentences[0] == "Of 2 attacks: 1 breaks it, 1 is inconclusive."
    random = report.model_copy(update={"results": [r for r in renamed if r.threat == "sanity-random"]})
    assert sanity(random) == "sanity-random: a check of the search that counts nowhere above."


def test_the_whole_box_is_one_whatever_its_name(report):
    results = [r.model_copy(update={"threat": "my-box"}) if r.threat == "own-full-box" else r for r in report.results]
    found = report.model_copy(update={"results": results})
    assert [h.sentences[0] for h in headlines(found)] == [h.sentences[0] for h in headlines(report)]
    assert sanity(found).startswith("my-box: a check of the search that counts nowhere above; the whole box left AUROC")


def test_a_turned_sign_stands_in_place_of_the_tally(report):
    reason = "no better than chance before any attack (AUROC 0.012); is its sign turned?"
    turned = [
        r.model_copy(update={"clean": r.clean.model_copy(update={"auroc": 0.012}), "reason": reason})
        for r in report.results
    ]
    (first, _) = headlines(report.model_copy(update={"results": turned}))
    assert first.sentences[0] == "No better than chance before any attack (AUROC 0.012); is its sign turned?"


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["broken"], "The attack breaks it."),
        (["holds", "holds"], "It holds against all 2 attacks."),
        (["broken", "broken"], "All 2 attacks break it."),
        (["holds", "broken", "holds"], "Of 3 attacks: 1 breaks it, it holds against 2."),
    ],
)
def test_tallies(verdicts, said):
    assert tally(verdicts) == said


HARNESS = """<!doctype html><iframe src="{page}" style="width:1000px;height:800px"></iframe><pre id="out"></pre>
<script>
document.querySelector("iframe").addEventListener("load", (event) => {{
  const d = event.target.contentDocument, w = event.target.contentWindow;
  const shown = () => [...d.querySelectorAll("#cells tbody tr")].filter((r) => !r.hidden);
  const column = (i) => shown().map((r) => r.cells[i].dataset.v);
  const head = (i) => d.querySelectorAll("#cells thead th")[i];
  const type = (id, v) => {{ const e = d.getElementById(id); e.value = v; e.dispatchEvent(new w.Event("input")); }};
  const out = {{ before: column(5) }};
  head(5).querySelector("button").click();
  out.up = column(5); out.said = head(5).getAttribute("aria-sort");
  head(5).querySelector("button").click();
  out.down = column(5);
  head(8).querySelector("button").click();
  out.certified = column(8);
  head(2).querySelector("button").click();
  out.threats = column(2); out.marked = d.querySelectorAll("[aria-sort]").length;
  type("words", "MINE strong");
  out.filtered = column(2); out.count = d.getElementById("count").textContent;
  out.details = [...d.querySelectorAll("details.cell")].filter((e) => !e.hidden).length;
  type("words", ""); type("verdict", "holds");
  out.holds = column(3);
  type("verdict", "");
  out.all = column(2).length;
  d.querySelector("#cells tbody a").click();
  setTimeout(() => {{
    out.open = d.querySelectorAll("details.cell[open]").length;
    d.getElementById("open-all").click();
    out.opened = d.querySelectorAll("details.cell[open]").length;
    out.overflow = d.documentElement.scrollWidth - d.documentElement.clientWidth;
    document.getElementById("out").textContent = JSON.stringify(out);
  }}, 100);
}});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
class TestInABrowser:
    @pytest.fixture
    def place(self, report, tmp_path):
        (tmp_path / "report.html").write_text(full(report), encoding="utf-8")
        return tmp_path

    def test_loads_without_errors(self, place):
        text, logged = browse(f"file://{place}/report.html", place / "profile")
        assert logged == ""
        assert "8 of 8 cells" in text  # written by the script

    def test_an_error_would_be_seen(self, place):
        broken = (place / "report.html").read_text(encoding="utf-8").replace("</main>", "<script>alert(1)</script>")
        (place / "report.html").write_text(broken, encoding="utf-8")
        _, logged = browse(f"file://{place}/report.html", place / "profile")
        assert "Content Security Policy" in logged  # and it has not run

    def test_sorts_filters_and_opens(self, report, place):
        (place / "harness.html").write_text(HARNESS.format(page="report.html"))
        text, logged = browse(f"file://{place}/harness.html", place / "profile", *LOOK_INSIDE)
        assert logged == ""
        out = json.loads(re.search(r'<pre id="out">(.*)</pre>', text)[1])
        left = [r.attacked.auroc for r in report.results]
        numbers = {name: list(map(float, out[name])) for name in ("before", "up", "down")}
        assert numbers == {"before": left, "up": sorted(left), "down": sorted(left, reverse=True)}
        assert left != sorted(left)
        assert (out["said"], out["marked"]) == ("ascending", 1)
        assert out["certified"] == ["0.125"] + [""] * (len(left) - 1)  # what has no value is last
        assert out["threats"] == sorted(r.threat for r in report.results)
        assert (out["filtered"], out["count"], out["details"]) == (["strong"], "1 of 8 cells", 1)
        assert set(out["holds"]) == {"holds"}
        assert out["all"] == len(left)
        assert (out["open"], out["opened"]) == (1, len(left))
        assert out["overflow"] <= 0

    @pytest.mark.skipif(PDFTOTEXT is None, reason="needs pdftotext")
    def test_on_paper_every_page_of_the_table_has_its_headings(self, report, tmp_path):
        many = report.model_copy(update={"results": report.results * 15, "curves": []})
        (tmp_path / "report.html").write_text(page(many), encoding="utf-8")
        browse(f"file://{tmp_path}/report.html", tmp_path / "profile", f"--print-to-pdf={tmp_path}/report.pdf")
        text = subprocess.run([PDFTOTEXT, "-layout", tmp_path / "report.pdf", "-"], capture_output=True, text=True)
        table = [p for p in text.stdout.split("\f") if len(re.findall(r"^ *(?:plain@net|mine) .*→", p, re.M)) > 1]
        assert len(table) > 1
        assert all("AUROC clean" in " ".join(p.split()) for p in table)

    @pytest.mark.parametrize("width", [360, 390, 700, 1280])
    def test_nothing_is_wider_than_the_screen(self, place, width):
        harness = HARNESS.format(page="report.html").replace("1000px", f"{width}px")
        (place / "harness.html").write_text(harness)
        text, _ = browse(f"file://{place}/harness.html", place / "profile", *LOOK_INSIDE)
        assert json.loads(re.search(r'<pre id="out">(.*)</pre>', text)[1])["overflow"] <= 0
