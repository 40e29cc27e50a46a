"""The gallery of a finished run, and its page: the worst rows, who judges them, the same bytes every time."""

import json
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from browser import CHROMIUM, LOOK_INSIDE, NO_BROWSER, browse
from PIL import Image
from small_run import RUN, fill

from oodattack.gallery.judge import FAR, NEAR, WAS_NEAR, Judge, judge_by, judge_of, nearest, pixel_judge
from oodattack.gallery.picked import picked
from oodattack.gallery.run_page import sheets_of, write_page
from oodattack.gallery.saved import column, id_images, pool_of, rows_of, saved
from oodattack.gallery.write import gallery
from oodattack.report.page import MOST_SHEETS
from oodattack.report.sheet import BOTTOM, GAP, LEFT, LINE, TILE, TOP


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a small run; to be copied, not to be changed."""
    from oodattack.cli import main

    folder = tmp_path_factory.mktemp("finished")
    fill(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])
        patch.setattr(sys, "argv", ["oodattack", *RUN])
        patch.setattr(sys, "dont_write_bytecode", True)
        assert main(RUN) == 0
    sys.modules.pop("mine", None)
    return folder / "out"


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of everything around the run, and the current folder."""
    shutil.copytree(finished.parent, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "place"
    sys.modules.pop("mine", None)


@pytest.fixture
def run(finished, tmp_path):
    return saved(shutil.copytree(finished, tmp_path / "out"))


def bright(x):
    return x.flatten(1).mean(1)


def two_classes(x):
    """Class 1 where the first pixel is brighter than the second."""
    return torch.stack([x[:, 0, 0, 1], x[:, 0, 0, 0]], dim=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_same_run_same_bytes(run):
    page = gallery(run.folder, worst=3)
    assert page == run.folder / "gallery" / "gallery.html"
    first = contents(page.parent)
    assert len(first) == 1 + len(run.report.results)
    shutil.rmtree(page.parent)
    gallery(run.folder, worst=3)
    assert contents(page.parent) == first
    gallery(run.folder, worst=2, logits={"mine:bright": two_classes}, class_=1)
    assert len(contents(page.parent)) < len(first)  # nothing of the earlier one is left


def test_every_picture_of_the_page_is_there(run):
    page = gallery(run.folder)
    text = page.read_text()
    assert "root-mean-square distance of pixels to the nearest ID image. An image looks like an ID image to it" in text
    pictures = re.findall(r'<img [^>]*src="([^"]*)"', text)
    assert len(pictures) == len(set(pictures)) == len(run.report.results)
    for name in pictures:
        assert size(page.parent / unquote(name))[0] == LEFT + 6 * (TILE + GAP) + GAP  # all six rows


def test_nothing_else_is_touched(run):
    before = contents(run.folder)
    gallery(run.folder)
    after = contents(run.folder)
    assert {name: data for name, data in after.items() if not name.startswith("gallery/")} == before


def test_worst_rows_come_first(run):
    for result, cell in run.cells:
        rows = picked(run, result, cell, 3, None, None, None)
        side = next(s for s in cell.sides if s.images != "id")
        scores = column(run, side, "scores")
        assert rows.side == "ood"
        assert rows.x_adv_scores.tolist() == scores.sort().values[:3].tolist()
        assert rows.row.tolist() == scores.argsort(stable=True)[:3].tolist()
        x = torch.cat(list(run.inputs.blocks(side.images)))
        assert torch.equal(rows.start, x[rows.row])
        if cell.detector == "mine:bright":  # what is shown has the scores that are printed
            assert torch.allclose(bright(rows.x_adv), rows.x_adv_scores)
            assert torch.allclose(bright(rows.start), rows.start_scores)


def test_targets_are_those_of_the_match(run):
    result, cell = next((r, c) for r, c in run.cells if r.threat == "match" and c.detector == "mine:bright")
    rows = picked(run, result, cell, 6, None, None, bright)
    off = (rows.x_adv_scores - rows.target_scores).abs() / rows.target_scores.abs()  # MAPE of a score
    assert torch.allclose(off, rows.mape, atol=1e-5)
    assert picked(run, result, cell, 6, None, None, None).target_scores is None
    limits = run.threats["match"].model_copy(update={"paired": True})
    assert (pool_of(run, cell), pool_of(run._replace(threats={"match": limits}), cell)) == ("targets", "id")
    hidden, its = next((r, c) for r, c in run.cells if r.threat == "quick")
    assert picked(run, hidden, its, 6, None, None, bright).target is None


def test_a_class_of_the_adversarial_image(run):
    for result, cell in run.cells:
        both = [picked(run, result, cell, 6, c, two_classes, None) for c in (0, 1)]
        for c, rows in enumerate(both):
            if rows is not None:
                assert (two_classes(rows.x_adv).argmax(1) == c).all()
                assert torch.equal(rows.classes[1], torch.full_like(rows.row, c))
                assert torch.equal(rows.classes[0], two_classes(rows.start).argmax(1))
        assert sum(len(rows.row) for rows in both if rows) == 6


def test_predicted_classes_and_the_judge_are_on_page_and_sheet(run):
    page = gallery(run.folder, worst=2, logits={"mine:bright": two_classes}, class_=1)
    text = page.read_text()
    assert "of those predicted as class 1" in text
    assert re.search(r"<td>[01] → 1</td>", text) and not re.search(r"<td>[01] → 0</td>", text)
    assert "energy@model" not in text  # has no known classes here
    for path in page.parent.rglob("*.png"):
        assert size(path)[1] == TOP + 4 * (TILE + GAP) + BOTTOM + 2 * LINE


def test_no_row_of_a_class(run):
    with pytest.raises(ValueError, match=r"must have rows, got none predicted as class 7\. Leave --class out"):
        gallery(run.folder, logits={"mine:bright": two_classes}, class_=7)
    with pytest.raises(ValueError, match=r"got detectors without a network, hence without classes\. Leave --class out"):
        gallery(run.folder, class_=1)
    with pytest.raises(ValueError, match="`worst` must be >= 1, got 0"):
        gallery(run.folder, worst=0)


def test_no_finished_run(tmp_path):
    with pytest.raises(ValueError, match=r"evidence\.json: a finished run must have evidence, got No such file"):
        gallery(tmp_path)


def test_distances_by_hand():
    x_id = torch.zeros(3, 1, 2, 2)
    x_id[1] += 0.5
    x_id[2] += 1
    away, which = nearest(torch.full((1, 1, 2, 2), 0.6), x_id)
    assert away.item() == pytest.approx(0.1)
    assert which.item() == 1
    far, _ = nearest(torch.tensor([0.0, 0, 0, 0.5]).view(1, 1, 2, 2), x_id[:1])
    assert far.item() == pytest.approx(0.25)  # root of a quarter of 0.25
    assert pixel_judge(x_id).threshold == pytest.approx(0.5)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        pixel_judge(x_id[:1])


def test_a_copy_of_an_id_image_is_seen():
    generator = torch.Generator().manual_seed(0)
    x_id = 0.3 * torch.rand(50, 1, 4, 4, generator=generator)
    start = x_id[:3] + 0.6
    x_adv = start.clone()
    x_adv[0] = x_id[7] + 0.01  # an ID image but for a trace
    x_adv[1] -= 0.02
    start[2] = x_id[9] + 0.02
    x_adv[2] = x_id[9] + 0.01
    for judge in (pixel_judge(x_id), judge_by("bright", bright, x_id)):
        assert judge.verdicts(judge.score(start), judge.score(x_adv)) == [NEAR, FAR, WAS_NEAR]
        assert judge.images == 50


def test_a_trace_across_the_threshold_makes_no_id_image():
    # ID distances 0 .. 1: threshold 0.95, and a tenth of what lies between 0.05 and 0.95 is 0.09
    judge = judge_of("", bright, torch.linspace(0, 1, 101))
    assert (judge.threshold, judge.material, judge.images) == (pytest.approx(0.95), pytest.approx(0.09), 101)
    before, after = torch.tensor([0.9502, 1.03, 1.05, 0.9]), torch.tensor([0.9499, 0.945, 0.955, 0.2])
    assert judge.verdicts(before, after) == [WAS_NEAR, WAS_NEAR, FAR, WAS_NEAR]
    assert judge.verdicts(before, after - 0.01) == [WAS_NEAR, NEAR, NEAR, WAS_NEAR]


@pytest.mark.parametrize(
    ("judge", "attacked", "independent"),
    [
        (None, "energy@ce", True),
        ("energy@ce", "energy@ce", False),
        ("energy@ce", "msp@ce", False),
        ("energy@ce", "energy@gq", True),
        ("ensemble@ce,gq", "energy@gq", False),
        ("mine:bright", "mine:bright", False),
        ("mine:bright", "mine:dark", True),
        ("mine:bright", "energy@ce", True),
    ],
)
def test_nobody_judges_an_attack_on_itself(run, judge, attacked, independent):
    detector, _, network = attacked.partition("@")
    result = run.report.results[0].model_copy(update=dict(detector=detector, network=network))
    assert Judge("", bright, 0, judge).is_independent(result) is independent


def test_most_id_images_are_taken_for_what_they_are():
    generator = torch.Generator().manual_seed(0)
    known, fresh = (torch.rand(400, 1, 3, 3, generator=generator) for _ in range(2))
    judge = pixel_judge(known)
    assert 0.9 < (judge.score(fresh) <= judge.threshold).double().mean() < 0.99


def test_the_page_warns(run):
    x_id = id_images(run)
    assert len(x_id) == run.inputs.count("id") + run.inputs.count("targets")
    starts = torch.cat(list(run.inputs.blocks("ood/npz:ood.npz")))
    shown = {image.numpy().tobytes() for image in starts}
    new = lambda x: torch.tensor([float(image.numpy().tobytes() in shown) for image in x])
    everything = Judge("everything new", new, 0.5)
    text = gallery(run.folder, judge=everything).read_text()
    assert "has made what looks like an ID image" in text
    assert "6 of 6 rows shown" in text
    assert text.count("LOOKS LIKE ID</td>") == 6 * len(run.report.results)
    text = gallery(run.folder, judge=everything._replace(detector="other@model")).read_text()
    assert text.count("LOOKS LIKE ID</td>") == 6 * sum(r.network != "model" for r in run.report.results)
    nothing = Judge("nothing", lambda x: torch.ones(len(x)), 0.5)
    assert "No row that is shown was turned into one" in gallery(run.folder, judge=nothing).read_text()


def test_the_run_has_its_page(run):
    text = write_page(run.folder).read_text()
    n = len(run.report.results)
    assert text.count("Histogram of scores") == n
    assert text.count("Histogram of MAPE") == sum(r.mape is not None for r in run.report.results)
    assert text.count("data:image/png") == min(n, MOST_SHEETS)
    assert "Latent of the adversarial" not in text
    assert write_page(run.folder).read_text() == text
    with_latents = write_page(run.folder, {"mine:bright": bright}).read_text()
    assert with_latents.count("Latent of the adversarial") == 1


def test_rows_are_those_of_the_report(run):
    from oodattack.metrics import auroc

    rows = rows_of(run, {"mine:bright": bright})
    for result in run.report.results:
        mine = rows[result.key]
        for metrics, pair in ((result.clean, mine.before), (result.attacked, mine.after)):
            scores = [torch.tensor(side, dtype=torch.float64) for side in pair]
            assert auroc(*scores) == pytest.approx(metrics.auroc)
        if mine.z:
            z_in, z_out = map(np.array, mine.z)
            assert np.median(abs(z_out - z_in) / abs(z_in)) == pytest.approx(result.mape.median, rel=0.3)


def test_sheets_that_are_too_many_are_links(run, monkeypatch):
    monkeypatch.setattr("oodattack.gallery.run_page.MOST_SHEETS", 3)
    sheets = list(sheets_of(run.folder, run.report).values())
    assert [s.png is not None for s in sheets].count(True) == 3
    assert sheets[0].png is not None and sheets[-1].png is not None
    for s in sheets:
        assert (run.folder / unquote(s.path)).is_file()
    monkeypatch.setattr("oodattack.gallery.run_page.MOST_BYTES", 0)
    assert all(s.png is None for s in sheets_of(run.folder, run.report).values())


def test_a_forged_index_is_refused(run):
    index = json.loads((run.folder / "evidence.json").read_text())
    index["cells"] = index["cells"][1:]
    (run.folder / "evidence.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must have every cell of the report, got none for"):
        gallery(run.folder)


def test_the_command_line(place, capsys):
    from oodattack.cli import main

    assert main(["gallery", "out", "--worst", "2"]) == 0
    assert capsys.readouterr().out == "out/gallery/gallery.html: contact sheets of every cell\n"
    text = (place / "out" / "gallery" / "gallery.html").read_text()
    assert text.count("predicted class</th>") == 4  # the network's four cells; user code has no classes
    assert re.search(r"<td>[0-3] → [0-3]</td>", text)
    predicted = max("0123", key=lambda c: text.count(f"→ {c}</td>"))
    assert main(["gallery", "out", "--class", predicted]) == 0
    assert re.search(r": contact sheets of [1-4] of 8 cells$", capsys.readouterr().out.strip())
    text = (place / "out" / "gallery" / "gallery.html").read_text()
    assert set(re.findall(r"→ (\d)</td>", text)) == {predicted} and "mine:bright" not in text
    assert main(["gallery", "out", "--class", "99"]) == 2
    assert "got none predicted as class 99" in capsys.readouterr().err
    assert main(["gallery", "out", "--judge", "mine:dark"]) == 2
    assert "`--judge` must be one of energy@model, mine:bright, got 'mine:dark'" in capsys.readouterr().err
    assert main(["gallery", "out", "--judge", "mine:bright"]) == 0
    text = (place / "out" / "gallery" / "gallery.html").read_text()
    assert "the score of mine:bright" in text
    n = len(id_images(saved(place / "out")))
    assert re.search(rf"as it is for 95 % of the {n} ID images .* brought it down by [0-9.e-]+ or more", text)
    assert len(re.findall(r"<td>[0-9.e-]+ → [0-9.e-]+</td><td>-?[0-9.e-]+ → -?[0-9.e-]+</td><td", text)) > 0


def test_a_run_writes_its_page_and_verifies_with_a_gallery(place, capsys):
    from oodattack.cli import main

    files = json.loads((place / "out" / "manifest.json").read_text())["files"]
    assert "report.html" in files
    assert "Latent of the adversarial" in (place / "out" / "report.html").read_text()
    assert main(["gallery", "out"]) == 0
    assert main(["verify", "out"]) == 0
    (place / "out" / "report.html").write_text("touched up")
    assert main(["verify", "out"]) == 1


def test_without_its_code_a_gallery_has_no_classes_and_says_so(place, capsys):
    from oodattack.cli import main

    (place / "mine.py").unlink()
    assert main(["gallery", "out"]) == 0
    text = (place / "out" / "gallery" / "gallery.html").read_text()
    assert "Without predicted classes: " in text and "predicted class</th>" not in text
    assert main(["gallery", "out", "--class", "1"]) == 2


HARNESS = """<!doctype html><iframe src="{page}" style="width:{width}px;height:800px"></iframe><pre id="out"></pre>
<script>
document.querySelector("iframe").addEventListener("load", async (event) => {{
  const d = event.target.contentDocument;
  const there = (hash) => d.getElementById(hash.slice(1));
  const sheets = [...d.querySelectorAll("img")];
  const settled = (img) => img.complete || new Promise((done) => {{ img.onload = img.onerror = done; }});
  sheets.forEach((img) => {{ img.loading = "eager"; }});
  await Promise.all(sheets.map(settled));
  d.querySelectorAll("details").forEach((e) => {{ e.querySelector("summary").click(); }});
  setTimeout(() => {{
    document.getElementById("out").textContent = JSON.stringify({{
      shown: sheets.filter((img) => img.naturalWidth > 0).length,
      named: sheets.filter((img) => img.alt.length > 20).length,
      links: sheets.filter((img) => img.parentElement.href === img.src).length,
      open: d.querySelectorAll("details[open]").length,
      rows: d.querySelectorAll("tbody tr").length,
      jumps: [...d.querySelectorAll("li a")].filter((a) => there(a.hash) || there(decodeURIComponent(a.hash))).length,
      overflow: d.documentElement.scrollWidth - d.documentElement.clientWidth,
    }});
  }}, 100);
}});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
class TestInABrowser:
    def looked(self, page, width, profile) -> dict[str, int]:
        (page.parent / "harness.html").write_text(HARNESS.format(page=page.name, width=width))
        text, logged = browse(f"file://{page.parent}/harness.html", profile, *LOOK_INSIDE)
        assert logged == ""
        return json.loads(re.search(r'<pre id="out">(.*)</pre>', text)[1])

    def test_loads_without_errors(self, run, tmp_path):
        page = gallery(run.folder, worst=2)
        text, logged = browse(f"file://{page}", tmp_path / "profile")
        assert logged == ""
        assert "What the attacks made" in text

    @pytest.mark.parametrize("width", [360, 700, 1280])
    def test_everything_can_be_seen(self, run, tmp_path, width):
        n = len(run.report.results)
        seen = self.looked(gallery(run.folder, worst=2), width, tmp_path / "profile")
        assert (seen["shown"], seen["named"], seen["links"]) == (n, n, n)
        assert (seen["open"], seen["rows"]) == (n, 2 * n)
        assert seen["overflow"] <= 0

    def test_warnings_lead_to_their_cells(self, run, tmp_path):
        starts = torch.cat(list(run.inputs.blocks("ood/npz:ood.npz")))
        shown = {image.numpy().tobytes() for image in starts}
        new = lambda x: torch.tensor([float(image.numpy().tobytes() in shown) for image in x])
        page = gallery(run.folder, worst=2, judge=Judge("everything new", new, 0.5))
        assert self.looked(page, 1000, tmp_path / "profile")["jumps"] == len(run.report.results)

    def test_a_missing_sheet_would_be_seen(self, run, tmp_path):
        page = gallery(run.folder, worst=2)
        next(page.parent.rglob("*.png")).unlink()
        (page.parent / "harness.html").write_text(HARNESS.format(page=page.name, width=1000))
        text, _ = browse(f"file://{page.parent}/harness.html", tmp_path / "profile", *LOOK_INSIDE)
        assert json.loads(re.search(r'<pre id="out">(.*)</pre>', text)[1])["shown"] == len(run.report.results) - 1
