"""What the embedded default shows, on real images and networks trained on the spot."""

import json

import pytest
import torch

from oodattack import job

LOGIT_DETECTORS = ("msp@ce", "max-logit@ce", "energy@ce", "odin@ce", "odin@gq", "energy@greg", "energy@greg+")
OTHERS = ("mahalanobis@ce", "gaia-z@ce", "si-z@ce", "si-a@ce")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("default") / "run"
    asked = job.Job(detectors=LOGIT_DETECTORS + OTHERS, threats=("liang-logit", "sanity-full-box"), out=folder)
    report, _ = job.run(asked)
    torch.set_num_threads(threads)
    return report, folder


def test_every_network_classifies_digits(done):
    accuracy = done[0].spec.id_accuracy
    assert set(accuracy) == {"ce", "gq", "greg", "greg+"}
    assert min(accuracy.values()) >= 0.97


def test_sets_are_large_enough(done):
    for r in done[0].results:
        assert r.clean.n_id >= 200 and r.clean.n_ood >= 200


def test_matching_the_logits_leaves_chance(done):
    matched = [r for r in done[0].results if r.threat == "liang-logit"]
    assert {f"{r.detector}@{r.network}" for r in matched} == set(LOGIT_DETECTORS)
    assert {r.ood for r in matched} == {"digits-6-9", "far-mix"}
    for r in matched:
        # there is something to lose; odin@gq on far OOD varies with the torch release: .92 with 2.15, .82 with 2.6
        assert r.clean.auroc > (0.75 if r.network == "gq" else 0.85), (r.detector, r.network)
        assert abs(r.attacked.auroc - 0.5) <= 0.03, (r.detector, r.network, r.ood, r.attacked.auroc)
        assert r.mape is not None and r.mape.median <= 0.01
        assert r.distance <= 10 * (1 + 1e-6)
        assert r.verdict == "broken"
    skipped = {f"{s.detector}@{s.network}" for s in done[0].skipped}
    assert skipped == set(OTHERS)  # said, not silently left out


def test_the_whole_box_leaves_nothing(done):
    for r in done[0].results:
        if r.threat == "sanity-full-box":
            assert r.attacked.auroc < 0.05, (r.detector, r.network, r.ood)


def test_counts_are_attacked_through_a_named_surrogate(done):
    for r in done[0].results:
        if r.detector in ("si-z", "gaia-z", "si-a"):
            assert r.surrogate and "beta" in r.surrogate
            assert r.indicators["surrogate_rank_correlation"] > 0.9


def test_one_search_serves_detectors_of_the_same_surrogate(tmp_path):
    detectors, threats = ("si-z@ce", "gaia-z@ce"), ("linf-8-255",)
    report, _ = job.run(
        job.Job(detectors=detectors, threats=threats, ood=("far-mix",), samples=20, out=tmp_path / "run")
    )
    assert [r.shared_with for r in report.results] == [["gaia-z@ce"], ["si-z@ce"]]


def test_one_search_serves_detectors_of_the_same_logits(done):
    matched = {f"{r.detector}@{r.network}": r for r in done[0].results if r.threat == "liang-logit"}
    assert matched["msp@ce"].shared_with == ["max-logit@ce", "energy@ce"]
    assert matched["odin@gq"].shared_with == []


def test_the_run_directory_holds_the_report_and_a_sheet_a_cell(done):
    report, folder = done
    assert json.loads((folder / "report.json").read_text())["schema"] == 1
    assert len(list(folder.glob("sheets/*/*/*.png"))) == len(report.results)
