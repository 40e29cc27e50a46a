"""`oodattack check` on runs of the command line: good use, bad use, exit codes."""

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from oodattack.cli import main
from oodattack.gate import measured

CODE = """
import os

def score(x):
    spoilt = float(os.environ.get("SPOILT", "0"))
    return x.flatten(1).mean(1) + spoilt * x[:, 0, 0, 0]
"""
QUICK = """
norm = "linf"
eps = "2/255"
aim = "{aim}"
objective = "score"
start = "ood"
init = "clean"
attack = "apgd"
queries = 2
restarts = 1
iterate = "best"
source = "test"
"""
RUN = [
    "run", "--detector", "mine:score", "--threat", "quick.toml", "--threat", "lift.toml", "--id", "npz:id.npz",
    "--ood", "npz:ood.npz",
]  # fmt: skip


def run(folder, monkeypatch, out, *, spoilt=0.0, more=()):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("OODATTACK_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SPOILT", str(spoilt))
    assert main([*RUN, "--out", out, *more]) == 0
    sys.modules.pop("mine", None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, the same again on a detector that is a little worse, and one with another seed."""
    folder = tmp_path_factory.mktemp("runs")
    draw = np.random.default_rng(0)
    np.savez(folder / "id.npz", images=0.1 + 0.7 * draw.random((90, 1, 8, 8)), labels=np.arange(90) % 2)
    np.savez(folder / "ood.npz", images=0.135 + 0.7 * draw.random((80, 1, 8, 8)))
    (folder / "mine.py").write_text(CODE)
    (folder / "quick.toml").write_text(QUICK.format(aim="hide"))
    (folder / "lift.toml").write_text(QUICK.format(aim="raise"))
    with pytest.MonkeyPatch.context() as patch:
        run(folder, patch, "old")
        run(folder, patch, "worse", spoilt=0.2)
        run(folder, patch, "seeded", more=["--seed", "1"])
    return folder


@pytest.fixture
def workplace(runs, monkeypatch, tmp_path, capsys):
    """The folder of the runs, with a baseline of the first."""
    monkeypatch.chdir(runs)
    baseline = tmp_path / "baseline.json"
    assert main(["check", "old", "--baseline", str(baseline), "--update"]) == 0
    assert capsys.readouterr().out == f"{baseline}: 2 cells with the scores of their images\n"
    return baseline


def test_the_same_run_passes(workplace, capsys):
    for report in ("old", "old/report.json"):
        assert main(["check", report, "--baseline", str(workplace)]) == 0
        out = capsys.readouterr().out
        assert out.startswith("no regression in 1 clean and 2 attacked AUROCs") and "paired" in out


def test_scores_are_those_of_every_attacked_side(runs):
    found = measured(runs / "old")
    by_threat = {cell.threat: cell for cell in found.cells}
    assert (by_threat["quick"].attacked.id, by_threat["lift"].attacked.ood) == ("clean id", "clean ood/npz:ood.npz")
    assert (by_threat["quick"].attacked.ood, by_threat["lift"].attacked.id) == ("quick ood/npz:ood.npz", "lift id")
    assert all(found.rows(c.detector, a) for c in found.cells for a in (c.clean, c.attacked))


def test_a_worse_detector_fails(workplace, capsys, tmp_path):
    xml = tmp_path / "check.xml"
    assert main(["check", "worse", "--baseline", str(workplace), "--junit", str(xml)]) == 1
    out = capsys.readouterr().out
    assert "REGRESSION  mine:score, quick on npz:ood.npz: AUROC 0." in out
    assert int(Xml.parse(xml).getroot().get("failures")) >= 1
    assert main(["check", "worse", "--baseline", str(workplace), "--format", "github"]) == 1
    assert capsys.readouterr().out.startswith("::error title=AUROC regression")
    assert main(["check", "worse", "--baseline", str(workplace), "--max-drop", "0.9"]) == 0


def test_an_attack_that_is_no_evidence_any_more_fails(workplace, capsys):
    fields = json.loads(workplace.read_text())
    now = [cell["verdict"] for cell in fields["cells"]]
    fields["cells"] = [{**cell, "verdict": "broken"} for cell in fields["cells"]]
    workplace.write_text(json.dumps(fields))
    assert "inconclusive" in now
    assert main(["check", "old", "--baseline", str(workplace)]) == 1
    assert "is no evidence, the attack is inconclusive and was not in the baseline: " in capsys.readouterr().out
    assert main(["check", "old", "--baseline", str(workplace), "--accept-inconclusive"]) == 0
    assert "warning: mine:score, " in capsys.readouterr().out


def test_update_accepts_it(workplace, capsys):
    assert main(["check", "worse", "--baseline", str(workplace), "--update"]) == 0
    assert main(["check", "worse", "--baseline", str(workplace)]) == 0
    assert main(["check", "old", "--baseline", str(workplace)]) == 0  # better than that


def test_update_says_what_is_not_compared_any_more(workplace, capsys):
    fields = json.loads(workplace.read_text())
    more = [{**fields["cells"][0], "detector": "gone"}]
    fields["scores"]["gone"] = fields["scores"]["mine:score"]
    workplace.write_text(json.dumps(fields | {"cells": [*fields["cells"], *more]}))
    assert main(["check", "old", "--baseline", str(workplace), "--update"]) == 0
    says = "note: not in it any more, and not compared from now on: 1 cells (gone, quick on npz:ood.npz)"
    assert says in capsys.readouterr().out.splitlines()
    workplace.write_text('{"baseline": 0}')  # what cannot be read is written anew
    assert main(["check", "old", "--baseline", str(workplace), "--update"]) == 0


def test_a_report_is_not_compared_with_itself(workplace, capsys):
    for report, baseline in (("old", "old"), ("old", "old/report.json"), (str(workplace), str(workplace))):
        assert main(["check", report, "--baseline", baseline]) == 2
        assert capsys.readouterr().err == (
            f"oodattack: `--baseline` must be another file than REPORT, got {baseline!r} twice. Name an earlier one.\n"
        )


@pytest.mark.parametrize("name", ["old/report.json", "id.npz"])
def test_update_takes_the_place_of_no_report(workplace, capsys, runs, name):
    before = (runs / name).read_bytes()
    assert main(["check", "worse", "--baseline", name, "--update"]) == 2
    assert capsys.readouterr().err.startswith("oodattack: `baseline` must be a baseline to be replaced, got another")
    assert (runs / name).read_bytes() == before


def test_junit_takes_the_place_of_no_other_file(workplace, capsys):
    before = workplace.read_bytes()
    assert main(["check", "old", "--baseline", str(workplace), "--junit", str(workplace)]) == 2
    assert "`--junit` must be a file of its own, got" in capsys.readouterr().err
    report = Path("old/report.json")
    was = report.read_bytes()
    assert main(["check", str(report.parent), "--baseline", str(workplace), "--junit", str(report)]) == 2
    assert report.read_bytes() == was
    capsys.readouterr()
    assert main(["check", "old", "--baseline", str(workplace), "--junit", "x.xml", "--update"]) == 2
    assert "`--junit` must go with a comparison, got it with --update" in capsys.readouterr().err
    assert workplace.read_bytes() == before


def test_reports_without_scores_are_compared_unpaired(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(runs / "old" / "report.json", tmp_path / "old.json")
    assert main(["check", str(runs / "old"), "--baseline", "old.json"]) == 0
    out = capsys.readouterr().out
    assert "warning: unpaired test" in out and "warning: too few images for the margin" in out
    assert main(["check", "old.json", "--baseline", "new.json", "--update"]) == 0
    assert "without scores: comparisons will be unpaired" in capsys.readouterr().out


def spoil_scores(folder):
    from safetensors.numpy import load_file, save_file

    path = next(folder.glob("clean/id/*/*.safetensors"))
    save_file({"scores": -load_file(path)["scores"]}, path)


BAD = {
    "another seed": (["seeded"], "`spec.seed` must be as in the baseline, 0, got 1"),
    "no report": (["nowhere"], "nowhere: must be a report that can be read"),
    "no report in the folder": (["empty"], "report.json: must be a report that can be read"),
    "no JSON": (["id.npz"], "id.npz: must be JSON"),
    "other JSON": (["list.json"], "list.json: must be a report or a baseline, got a JSON list"),
    "no report of ours": (["other.json"], "oodattack: other.json: `schema` must fit the report schema"),
    "damaged scores": (["damaged"], "must be a file of evidence"),
    "other scores": (["spoilt"], "must be that of its scores"),
    "margin": (["old", "--max-drop", "1"], "'--max-drop': 1.0 is not in the range"),
    "level": (["old", "--alpha", "0"], "'--alpha': 0.0 is not in the range"),
    "format": (["old", "--format", "html"], "'--format': 'html' is not one of"),
    "junit": (["old", "--junit", "id.npz/x.xml"], "`--junit` must be a file that can be written"),
}


@pytest.fixture(scope="module")
def broken(runs):
    (runs / "empty").mkdir()
    (runs / "list.json").write_text("[]")
    (runs / "other.json").write_text("{}")
    for name in ("damaged", "spoilt"):
        shutil.copytree(runs / "old", runs / name)
    next((runs / "damaged").glob("shards/*/*/*/*.safetensors")).write_bytes(b"no tensors")
    spoil_scores(runs / "spoilt")


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_bad_use_is_one_line_and_2(workplace, broken, capsys, words, says):
    assert main(["check", *words, "--baseline", str(workplace)]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_baseline_that_is_not_there_says_how_to_make_it(workplace, capsys):
    assert main(["check", "old", "--baseline", "no.json"]) == 2
    assert "`baseline` must be a file, got none at 'no.json'. Make it: --update" in capsys.readouterr().err
    assert main(["check", "old"]) == 2
    assert "--baseline" in capsys.readouterr().err


def test_what_cannot_be_compared_is_an_error_in_junit(workplace, capsys, tmp_path):
    xml = tmp_path / "check.xml"
    xml.write_text("of an earlier build")
    assert main(["check", "seeded", "--baseline", str(workplace), "--junit", str(xml)]) == 2
    root = Xml.parse(xml).getroot()
    assert [root.get(k) for k in ("tests", "failures", "errors")] == ["1", "0", "1"]
    assert root.find(".//testcase/error").get("message").startswith("`spec.seed` must be as in the baseline, 0, got 1")


def test_a_path_that_cannot_be_read_is_no_regression(workplace, capsys, tmp_path):
    xml, name = tmp_path / "check.xml", "n" * 300
    assert main(["check", "old", "--baseline", name, "--junit", str(xml)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"oodattack: {name}: must be readable") and printed.err.count("\n") == 1
    assert "File name too long" in Xml.parse(xml).getroot().find(".//testcase/error").get("message")


def test_a_threat_that_changed_is_named(workplace, capsys):
    fields = json.loads(workplace.read_text())
    fields["threats"]["quick"] = "0" * 64
    workplace.write_text(json.dumps(fields))
    assert main(["check", "old", "--baseline", str(workplace)]) == 2
    assert "`spec.threats.quick` must be as in the baseline" in capsys.readouterr().err


def test_help_shows_an_example(capsys):
    assert main(["check", "--help"]) == 0
    assert "oodattack check my-run --baseline baseline.json" in " ".join(capsys.readouterr().out.split())
