"""Evidence that was tampered with is caught, whatever else was changed to fit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import CODE, RUN, fill

from oodattack import diagnose, numbers
from oodattack.attack import STOPPED
from oodattack.cli import main
from oodattack.detectors import MSP, Energy, store
from oodattack.job import verifying
from oodattack.job.planned import job_of
from oodattack.job.verifying import load_detectors, of_names
from oodattack.metrics import same_scores
from oodattack.runs import claims
from oodattack.runs.manifest import write_manifest
from oodattack.runs.plan import read_plan
from oodattack.runs.rows import differ
from oodattack.runs.verify import opened
from oodattack.threat import ThreatModel, file_hash

SHARDS = Path("shards")


@pytest.fixture
def run(place, finished):
    """A finished run that may be changed."""
    shutil.copytree(finished / "out", place / "out")
    return place / "out"


def shard(run: Path, threat: str, side: str = "ood", detector: str = "energy") -> Path:
    """The file with the rows of one side."""
    (found,) = (
        p for p in (run / "shards").rglob("*.safetensors") if {threat, side} < set(p.parts) and detector in str(p)
    )
    return found


def edit(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({key: t.contiguous() for key, t in tensors.items()}, path)


def judge_again(result):
    """What a forger writes, too: the verdict that goes with the indicators."""
    found = diagnose.Indicators(**result["indicators"])
    says = diagnose.verdict(result["clean"]["auroc"], result["attacked"]["auroc"], found)
    result["verdict"], result["reason"] = says


def of_report(run: Path, change) -> None:
    path = run / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def test_quiet_says_what_came_out_and_what_is_different(run, capsys):
    assert main(["verify", "out", "--quiet"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"out: \d+ claims, all the same when computed again .*", line)
    of_report(run, lambda report: report["results"][0]["attacked"].update(auroc=0.123))
    write_manifest(run)
    assert main(["verify", "out", "--quiet"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("DIFFERENT") and "0.123" in line


def test_an_honest_run_passes(run, capsys):
    assert main(["verify", "out"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "DIFFERENT" not in out
    for word in (
        "linf distance",
        "scores_8bit",
        "MAPE",
        "auroc_low",
        "fpr_at_95_ood_tpr",
        "aupr",
        "targets",
        "verdict",
    ):
        assert word in out


def test_another_network_than_that_of_the_run_is_told_where_it_is(run, capsys, monkeypatch):
    monkeypatch.setattr(store, "network_sha256", lambda _: "0")
    assert main(["verify", str(run)]) == 1
    said = capsys.readouterr().err
    assert "the network must be that of the run, got other weights. Those that the run trained are in its cache" in said


def test_numbers_before_any_attack_are_computed_once_a_detector_and_set(run, monkeypatch):
    calls = []
    monkeypatch.setattr(claims, "numbers", lambda *scores: calls.append(scores) or numbers.numbers(*scores))
    assert main(["verify", "out"]) == 0
    cells = len(json.loads((run / "report.json").read_text())["results"])
    assert (len(calls), cells) == (2 * 8 + 2, 8)  # attacked and in 8 bits; two detectors on one set


def outside(t):
    t["x_adv"][0, 0, 0, 0] += 0.2
    t["x_adv"].clamp_(0, 1)


def out_of_the_box(t):
    t["x_adv"][0, 0, 0, 0] = -1e-3


def better_score(t):
    t["scores"][1] += 1.0


def better_8_bit_score(t):
    t["scores_8bit"][1] += 1.0


def other_target(t):
    t["target"][0] = (t["target"][0] + 1) % 7


def other_target_and_mape(t):
    other_target(t)
    t["mape"][0] = 0.0


def shorter_distance(t):
    t["distance"][:] = 0.0


def other_8_bit_image(t):
    t["x_8bit"][0, 0, 0, 0] ^= 64


def fewer_queries(t):
    t["queries"][:] = 1


def clean_scores(t):
    t["clean"][0] -= 0.5


def swapped_rows(t):
    t["row"][:2] = torch.tensor([1, 0])


FORGED = {
    "outside the ball": ("quick", outside, "linf distance"),
    "outside the box": ("quick", out_of_the_box, "pixels"),
    "a score": ("quick", better_score, "scores"),
    "a score of the suite": ("shared", better_score, "scores"),
    "a score of the worst": ("worst", better_score, "scores"),
    "an 8-bit score": ("shared", better_8_bit_score, "scores_8bit"),
    "a target": ("match", other_target, "targets"),
    "a target and its MAPE": ("match", other_target_and_mape, "targets"),
    "distances": ("quick", shorter_distance, "distances"),
    "an 8-bit image": ("quick", other_8_bit_image, "8-bit image"),
    "queries": ("quick", fewer_queries, "queries"),
    "clean scores": ("quick", clean_scores, "clean scores"),
    "rows": ("quick", swapped_rows, "rows"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_shard_is_caught(run, capsys, what):
    threat, change, word = FORGED[what]
    edit(shard(run, threat), change)
    assert main(["verify", "out"]) == 1
    out, err = capsys.readouterr()
    assert "DIFFERENT  file shards" in out and err.count("\n") == 1
    write_manifest(run)  # the forger can hash, too
    assert main(["verify", "out"]) == 1
    out, _ = capsys.readouterr()
    assert out.count("DIFFERENT") == 1 and word in out.splitlines()[-1]  # nothing after the first difference


def auroc(report):
    report["results"][0]["attacked"]["auroc"] = 0.99


def interval(report):
    report["results"][1]["attacked_8bit"]["auroc_low"] = 0.0


def verdict(report):
    result = report["results"][0]
    result["verdict"] = {"broken": "holds", "holds": "broken", "inconclusive": "holds"}[result["verdict"]]


def finite(report):
    report["results"][0]["indicators"]["non_finite_share"] = 0.5


def deployed(report):
    report["results"][-1]["deployed"]["fpr"] = 0.123


def images(report):
    report["spec"]["ood"][0]["sha256"] = "0" * 64


def threat(report):
    report["spec"]["threats"]["quick"] = "0" * 64


def cell(report):
    report["results"].pop()


def other_cell(report):
    report["results"][0]["threat"] = "shared"


def command(report):
    report["spec"]["command"] += " --seed 3"


def samples(report):
    report["spec"]["samples"] = 5


def overlap(report):
    report["spec"]["overlaps"] = [{"first": "id", "second": "npz:ood.npz", "images": 2}]


CHANGES = (auroc, interval, verdict, finite, deployed, images, threat, cell, other_cell, command, samples, overlap)
CLAIMS = {f.__name__: f for f in CHANGES}


def of_spec(**fields):
    return lambda report: report["spec"].update(fields)


def of_source(which, **fields):
    """Of the ID set, or of the first OOD set."""
    return lambda report: (report["spec"]["id"] if which == "id" else report["spec"]["ood"][0]).update(fields)


def of_results(**fields):
    return lambda report: [result.update(fields) for result in report["results"]]


CLAIMS |= {
    "n of id": of_source("id", n=4000),
    "n of ood": of_source("ood", n=4000),
    "name of id": of_source("id", name="imagenet"),
    "batch size": of_spec(batch_size=7),
    "device": of_spec(device="cuda:0"),
    "versions": lambda report: report["versions"].update(torch="0.1"),
    "one fingerprint more": lambda report: report["spec"]["fingerprints"].update(other="0" * 64),
    "direction": of_results(direction="raise"),
    "whole box": of_results(whole_box=True),
    "stopped": of_results(stopped={"target reached": 1.0}),
    "uncertified": of_results(uncertified="no bounds"),
    "a set twice": lambda report: report["spec"]["ood"].insert(0, report["spec"]["ood"][0] | {"n": 4000}),
    "a set as what a threat starts from": lambda report: report["spec"].update(starts=report["spec"]["ood"], ood=[]),
    "a set as both": lambda report: report["spec"].update(
        starts=report["spec"]["ood"], ood=[report["spec"]["ood"][0] | {"n": 4000}]
    ),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_changed_report_is_caught(run, capsys, what):
    of_report(run, CLAIMS[what])
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert capsys.readouterr().out.count("DIFFERENT") == 1


def test_a_report_from_before_a_field_is_still_proof(run, capsys):
    of_report(run, lambda report: [result.pop("whole_box") for result in report["results"]])
    write_manifest(run)
    assert main(["verify", "out"]) == 0
    assert "whole box" not in capsys.readouterr().out


def test_reasons_to_stop_are_those_of_the_search():
    assert claims.STOPPED == STOPPED


def test_scores_and_metrics_that_fit_each_other_are_caught_by_the_detector(run, capsys):
    """A forger who writes the clean scores into the shard and the clean numbers into the report."""
    for side in ("id", "ood"):
        edit(shard(run, "quick", side), lambda t: t.update(scores=t["clean"].clone(), scores_8bit=t["clean"].clone()))

    def fits(report):
        result = report["results"][0]
        assert (result["detector"], result["threat"]) == ("energy", "quick")
        result["attacked"] = result["attacked_8bit"] = result["clean"]

    of_report(run, fits)
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "scores" in capsys.readouterr().out.splitlines()[-1]


BUNCHED = """
def bunched(x):
    bright = x.flatten(1).mean(1)
    return (bright > 0.29).float() + 1e-4 * bright
"""


@pytest.fixture(scope="module")
def bunched(tmp_path_factory):
    """A run of a score with two heaps: the spread of all is a thousand times that of either."""
    folder = tmp_path_factory.mktemp("bunched")
    fill(folder)
    (folder / "mine.py").write_text(CODE + BUNCHED)
    words = [
        "run",
        "--detector",
        "mine:bunched",
        "--id",
        "npz:id.npz",
        "--ood",
        "npz:ood.npz",
        "--threat",
        "quick.toml",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])
        assert main([*words, "--out", "out"]) == 0
    sys.modules.pop("mine", None)
    return folder


@pytest.mark.parametrize("kind", ["clean", "attacked", "attacked_8bit"])
def test_scores_that_are_all_a_little_off_in_one_direction_are_caught(place, bunched, capsys, kind):
    """Each is within the slack, and every number of the report follows from them."""
    (place / "mine.py").write_text(CODE + BUNCHED)
    run = place / "out"
    shutil.copytree(bunched / "out", run)
    assert main(["verify", "out"]) == 0
    field = {"clean": "clean", "attacked": "scores", "attacked_8bit": "scores_8bit"}[kind]
    sides = [shard(run, "quick", side, "bunched") for side in ("id", "ood")]
    edit(sides[0], lambda t: t[field].add_(9e-4))
    if kind == "clean":
        (path,) = (run / "clean" / "id").rglob("*.safetensors")
        edit(path, lambda t: t["scores"].add_(9e-4))
    on_id, on_ood = (load_file(path) for path in sides)

    def fits(report):
        (result,) = report["results"]
        before = result[kind]["auroc"]
        for name, of in (("clean", "clean"), ("attacked", "scores"), ("attacked_8bit", "scores_8bit")):
            result[name] = numbers.numbers(on_id[of], on_ood[of]).model_dump()
        result["deployed"] = numbers.deployed(on_id["clean"], on_id["scores"], on_ood["scores"]).model_dump()
        judge_again(result)
        assert abs(before - result[kind]["auroc"]) > 0.1

    of_report(run, fits)
    write_manifest(run)
    capsys.readouterr()
    assert main(["verify", "out"]) == 1
    assert "auroc afresh" in capsys.readouterr().out.splitlines()[-1]


def test_scores_that_use_random_numbers_are_not_said_to_be_the_same(place, capsys):
    (place / "mine.py").write_text(CODE + "\ndef noisy(x):\n    return bright(x) + torch.rand(len(x))\n")
    words = ["run", "--detector", "mine:noisy", "--id", "npz:id.npz", "--ood", "npz:ood.npz", "--threat", "quick.toml"]
    assert main([*words, "--out", "out"]) == 0
    capsys.readouterr()
    assert main(["verify", "out", "--quiet"]) == 0
    *unknown, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"out: \d+ claims, all the same .*; 7 more could not be compared", last)
    assert len(unknown) == 2 + 2 * 2 + 1  # sets, sides exact and in 8 bits, AUROC
    assert all(line.startswith("unknown    mine:noisy") for line in unknown)
    assert all(line.endswith("not compared: the detector uses random numbers") for line in unknown)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """A finished run of threats that want something else than the lowest score."""
    folder = tmp_path_factory.mktemp("wanted")
    fill(folder)
    wrong = (folder / "quick-hide.toml").read_text().replace('"score"', '"misclassify"').replace('"ood"', '"id"')
    (folder / "wrong.toml").write_text(wrong)
    words = ["--threat", "wrong.toml", "--threat", "fmn-l2", "--batch-size", "8", "--out", "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])
        start = ["run", "--detector", "energy", "--model", "mine:net", "--id", "npz:id.npz", "--ood", "npz:ood.npz"]
        assert main([*start, *words]) == 0
    sys.modules.pop("mine", None)
    return folder


def test_start_images_from_id_and_searches_for_the_threshold_are_verified(place, wanted):
    shutil.copytree(wanted / "out", place / "out")
    assert main(["verify", "out"]) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("other_goal", None), ("id_against_id", False), ("accepted_before", 0.9), ("accepted_after", 0.01)],
)
def test_a_verdict_by_another_goal_is_caught(place, wanted, capsys, name, value):
    shutil.copytree(wanted / "out", place / "out")

    def change(report):
        for result in report["results"]:
            if result["indicators"][name] not in (None, False):
                result["indicators"][name] = value
                judge_again(result)

    of_report(place / "out", change)
    write_manifest(place / "out")
    assert main(["verify", "out"]) == 1
    assert f"{name}" in capsys.readouterr().out.split("DIFFERENT")[1]


def test_a_report_with_the_indicators_of_an_older_version_is_verified(run, capsys):
    def older(report):
        for result in report["results"]:
            del result["indicators"]["misled_share"]
            result["indicators"]["slope_ratio"] = 68.2

    of_report(run, older)
    write_manifest(run)
    assert main(["verify", "out"]) == 0
    out = capsys.readouterr().out
    assert ": broken" in out and out.endswith("; 8 more could not be compared\n")

    def turned(report):
        for result in report["results"]:
            result["verdict"] = "holds" if result["verdict"] == "broken" else "broken"

    of_report(run, turned)
    write_manifest(run)
    assert main(["verify", "out"]) == 1


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """A finished run with the whole box on one of two sides and on both, and a set that is one to start from, too."""
    folder = tmp_path_factory.mktemp("boxed")
    fill(folder)
    box = (folder / "quick.toml").read_text().replace('"8/255"', "1.0")
    (folder / "box.toml").write_text(box.replace('"both"', '"hide"'))
    (folder / "box-both.toml").write_text(box)
    (folder / "begun.toml").write_text((folder / "quick-hide.toml").read_text().replace('"ood"', '"noise"'))
    threats = ["quick", "quick-hide", "match", "worst", "box", "box-both", "begun"]
    words = ["--ood", "noise", *(word for threat in threats for word in ("--threat", f"{threat}.toml"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])
        start = ["run", "--detector", "energy", "--model", "mine:net", "--id", "npz:id.npz", "--ood", "npz:ood.npz"]
        assert main([*start, *words, "--out", "out"]) == 0
    sys.modules.pop("mine", None)
    return folder


@pytest.mark.parametrize("value", [0.51, None])
def test_another_auroc_that_the_whole_box_left_is_caught(place, boxed, capsys, value):
    """It decides between `holds` and `inconclusive`."""
    shutil.copytree(boxed / "out", place / "out")
    assert main(["verify", "out"]) == 0
    threats = [result["threat"] for result in json.loads((place / "out" / "report.json").read_text())["results"]]
    assert capsys.readouterr().out.count("full_box_auroc") == len(threats) == 6 * 2 + 1

    def change(report):
        result = report["results"][threats.index("quick-hide")]
        assert result["indicators"]["full_box_auroc"] not in (value, None)
        result["indicators"]["full_box_auroc"] = value
        judge_again(result)

    of_report(place / "out", change)
    write_manifest(place / "out")
    assert main(["verify", "out"]) == 1
    assert "quick-hide on npz:ood.npz: full_box_auroc" in capsys.readouterr().out.splitlines()[-1]


def test_a_whole_box_that_was_not_run_is_caught(run, capsys):
    def change(report):
        for result in report["results"]:
            result["indicators"]["full_box_auroc"] = 0.0
            judge_again(result)

    of_report(run, change)
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "full_box_auroc: 0 | None" in capsys.readouterr().out.splitlines()[-1]


def test_a_file_that_was_swapped_with_another_is_caught(run, capsys):
    one, two = shard(run, "quick"), shard(run, "shared")
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def without_a_cell(report, index):
    gone = report["results"].pop(0)
    assert (gone["detector"], gone["threat"]) == ("energy", "quick")
    del index["cells"][0]


def without_a_detector(report, index):
    report["results"] = [result for result in report["results"] if result["detector"] != "mine:bright"]
    index["cells"] = [cell for cell in index["cells"] if cell["detector"] != "mine:bright"]


def without_a_trace_of_a_detector(report, index):
    without_a_detector(report, index)
    report["spec"]["detectors"].remove("mine:bright")
    for of in (report["spec"]["networks"], report["spec"]["fingerprints"], index["clean"]):
        of.pop("mine:bright", None)


def without_a_set(report, index):
    report["results"], index["cells"], report["spec"]["ood"] = [], [], []
    for of in (index["inputs"], *index["clean"].values()):
        of.pop("ood/npz:ood.npz")


def twice(report, index):
    report["results"][1], index["cells"][1] = report["results"][0], index["cells"][0]


def test_images_in_common_that_are_kept_quiet_are_caught(place, capsys):
    with np.load("id.npz") as known:
        shared = known["images"][3:4]
    draw = np.random.default_rng(1).integers(0, 256, (110, 8, 8, 1)).astype(np.uint8)
    np.savez("ood.npz", images=np.concatenate([draw, shared]))
    words = ["run", "--detector", "mine:bright", "--id", "npz:id.npz", "--ood", "npz:ood.npz", "--threat", "quick.toml"]
    assert main([*words, "--out", "out"]) == 0
    assert main(["verify", "out"]) == 0
    assert "images in common: [('id', 'npz:ood.npz', 1)]" in capsys.readouterr().out
    of_report(place / "out", lambda report: report["spec"].update(overlaps=[]))
    write_manifest(place / "out")
    assert main(["verify", "out"]) == 1
    assert "images in common" in capsys.readouterr().out.splitlines()[-1]


LEFT_OUT = {
    f.__name__: f for f in (without_a_cell, without_a_detector, without_a_trace_of_a_detector, without_a_set, twice)
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_a_cell_of_the_plan_that_is_left_out_everywhere_is_caught(run, capsys, what):
    report, index = (json.loads((run / name).read_text()) for name in ("report.json", "evidence.json"))
    LEFT_OUT[what](report, index)
    (run / "report.json").write_text(json.dumps(report))
    (run / "evidence.json").write_text(json.dumps(index))
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert capsys.readouterr().out.count("DIFFERENT") == 1


def test_files_beside_or_missing_are_caught(run, capsys):
    (run / "more.txt").write_text("hello")
    assert main(["verify", "out"]) == 1
    (run / "more.txt").unlink()
    next((run / "sheets").rglob("*.png")).unlink()
    assert main(["verify", "out"]) == 1
    assert "no such file" in capsys.readouterr().out


def test_evidence_that_has_no_hash_is_caught(run, place, capsys):
    (run / "shards").rename(place / "elsewhere")
    (run / "shards").symlink_to(place / "elsewhere")
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "files of evidence without a hash: [] | ['shards/" in capsys.readouterr().out.splitlines()[-1]


def test_another_detector_is_caught(run, place, capsys):
    (place / "mine.py").write_text(CODE.replace("mean(1)", "amax(1)"))
    assert main(["verify", "out"]) == 1
    out, err = capsys.readouterr()
    assert "mine:bright" in out.splitlines()[-1]
    assert err == "oodattack: out is not what it claims: mine:bright, a file of yours outside the directory\n"


@pytest.mark.parametrize("other", [MSP, lambda net: Energy(net, temperature=2.0)], ids=["kind", "argument"])
def test_a_detector_under_the_name_of_another_is_caught(run, capsys, other):
    """Scores, fingerprints and numbers may fit each other: it is not what that name stands for."""
    job = job_of(read_plan(run))
    energy = load_detectors(opened(run), job)["energy@model"]
    store.save(other(energy.net), run / "detectors" / "energy@model")
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "energy@model: built from its network" in capsys.readouterr().out.splitlines()[-1]
    (line,) = of_names({"mahalanobis@model": energy}, job)
    assert not line.agree and (line.claimed, line.found) == ("mahalanobis", "energy")


def test_a_device_that_is_not_here_is_no_forgery(run, capsys, monkeypatch):
    def gone(name):
        raise ValueError("`--device` must be there, got 'cpu'. Try another.")

    monkeypatch.setattr(verifying, "checked_device", gone)
    assert main(["verify", "out"]) == 1
    err = capsys.readouterr().err
    assert err == (
        "oodattack: out: the device of the run must be there to compute again, got no 'cpu'. "
        "Take a machine that has it.\n"
    )


def widened(run: Path, entry: str) -> None:
    """The threat quick with a larger radius in the plan, under that name, with all hashes as they should be."""
    plan = read_plan(run)
    content = plan.threats["quick"].content | {"eps": 0.5}
    other = plan.threats["quick"].model_copy(update={"content": content})
    other = other.model_copy(update={"sha256": file_hash(ThreatModel(**content))})
    plan.model_copy(update={"threats": plan.threats | {entry: other}}).save(run)
    write_manifest(run)


def test_an_honest_plan_that_is_saved_again_passes(run, capsys):
    read_plan(run).save(run)
    write_manifest(run)
    assert main(["verify", "out"]) == 0


def test_a_larger_radius_in_the_plan_is_caught(run, capsys):
    widened(run, "quick")
    assert main(["verify", "out"]) == 1
    assert "threat quick" in capsys.readouterr().out.splitlines()[-1]


def test_a_second_entry_for_a_threat_in_the_plan_is_caught(run, capsys):
    widened(run, "zzz")
    assert main(["verify", "out"]) == 1
    assert "threats" in capsys.readouterr().out.splitlines()[-1]


def test_a_set_that_nobody_names_is_caught(run, capsys):
    # its scores would count as known ones, whose spread says how far scores may be off
    index = json.loads((run / "evidence.json").read_text())
    (name,) = (key for key in index["inputs"] if key.startswith("ood/"))
    index["inputs"]["ood/more"] = index["inputs"][name]
    for of in index["clean"].values():
        of["ood/more"] = of[name]
    (run / "evidence.json").write_text(json.dumps(index))
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "sets of images" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("wild", [float("inf"), float("nan")])
def test_scores_that_are_not_finite_make_nothing_equal_and_nobody_random(wild):
    a, known = torch.zeros(3), torch.tensor([0.0, 1.0, wild])
    assert not same_scores(a, a + 1, known) and not same_scores(a, a, known)
    assert not differ(a, a + 1, known) and not differ(a, torch.tensor([0.0, 0.0, wild]), torch.tensor([0.0, 1.0]))
    assert differ(a, a + 1, torch.tensor([0.0, 1.0])) and same_scores(a, a, torch.tensor([0.0, 1.0]))


def test_weights_that_the_report_does_not_name_are_caught(run, capsys):
    def change(report):
        report["spec"]["networks"] = {name: "0" * 64 for name in report["spec"]["networks"]}

    of_report(run, change)
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert "weights" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("name", ["evidence.json", "report.json", "plan.json"])
@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, "null", '{"format": 1, "inputs": {"id": ["../../x"]}}'])
def test_what_cannot_be_read_fails_in_one_line(run, capsys, name, text):
    (run / name).write_text(text)
    write_manifest(run)
    assert main(["verify", "out"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unfinished_run_cannot_be_verified(place, capsys):
    (place / "out").mkdir()
    assert main(["verify", "out"]) == 2
    assert "a finished run must have a manifest" in (err := capsys.readouterr().err) and "Check the path." in err
    (place / "out" / "plan.json").write_text("{}")
    for command in ("verify", "gallery"):
        assert main([command, "out"]) == 2
        assert "Finish it: oodattack run --resume out." in capsys.readouterr().err


def test_verification_loads_none_of_the_attacks(finished):
    code = """
        import sys
        from oodattack.cli import main
        assert main(["verify", "out"]) == 0
        names = ("oodattack.attack", "oodattack.evaluation", "oodattack.aims", "torchattacks")
        found = [name for name in sys.modules if name.startswith(names)]
        assert not found, found
    """
    script = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", script], cwd=finished, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_command_is_the_one_that_was_given(finished):
    report = json.loads((finished / "out" / "report.json").read_text())
    assert report["spec"]["command"].split()[1:3] == RUN[:2]
