"""Bounds beside attacks in a run directory, and what `verify` says of them."""

import json
import sys

import pytest
from small_run import RUN, fill

from oodattack.cli import main
from oodattack.runs.manifest import write_manifest

ASKED = ["--threat", "quick.toml", "--threat", "shared.toml", "--threat", "match.toml", "--certify", "--out", "out"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr(sys, "path", [entry for entry in sys.path if entry])
    patch.setattr(sys, "dont_write_bytecode", True)
    fill(folder)
    words = [word if word != "mine:net" else "mine:relu" for word in RUN[: RUN.index("--threat")]]
    assert main([*words, *ASKED]) == 0
    yield folder / "out"
    patch.undo()
    sys.modules.pop("mine", None)  # other tests have user code of that name


def results(run):
    return json.loads((run / "report.json").read_text())["results"]


def test_bounds_lie_below_attacks(run):
    bounded = [r for r in results(run) if r["certified"]]
    assert {(r["detector"], r["threat"]) for r in bounded} == {("energy", "quick"), ("energy", "shared")}
    for r in bounded:
        assert r["certified_auroc"] == r["certified"]["auroc"] <= r["attacked"]["auroc"]
        assert r["certified"]["fpr_deployed"] >= r["deployed"]["fpr"]
    assert max(r["certified_auroc"] for r in bounded) > 0


def test_the_others_say_why(run):
    reasons = {(r["detector"], r["threat"]): r["uncertified"] for r in results(run) if r["uncertified"]}
    assert reasons["energy", "match"] == "no bounds for the aim match"
    assert "must be an nn.Module to have bounds" in reasons["mine:bright", "quick"]
    page = (run / "report.html").read_text()
    assert "AUROC certified" in page and "no bounds for the aim match" in page


def test_verify_computes_bounds_again(run, capsys):
    assert main(["verify", str(run)]) == 0
    out = capsys.readouterr().out
    assert "energy@model, quick on npz:ood.npz: certified auroc" in out


def test_a_forged_bound_is_caught(run, capsys):
    report = json.loads((run / "report.json").read_text())
    result = next(r for r in report["results"] if r["threat"] == "shared")
    result["certified_auroc"] = result["certified"]["auroc"] = result["attacked"]["auroc"]
    (run / "report.json").write_text(json.dumps(report))
    write_manifest(run)
    assert main(["verify", str(run)]) == 1
    captured = capsys.readouterr()
    assert "DIFFERENT" in captured.out and "certified" in captured.err
