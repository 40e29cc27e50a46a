"""The fixture `assert_robust`: in a user's own test file, and what it says."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from oodattack.pytest_plugin import AssertRobust
from oodattack.threat import Suite, Sweep, ThreatModel

QUICK = ThreatModel(
    name="quick", norm="linf", eps=0.05, aim="hide", objective="score", start="ood", init="clean", attack="apgd",
    queries=10, restarts=1, iterate="best", source="test",
)  # fmt: skip
TEST_FILE = """
import sys
assert "torch" not in sys.modules and "numpy" not in sys.modules, "the plugin imports more than it must"
import torch

random = torch.Generator().manual_seed(0)
x_id, x_ood = (low + 0.4 * torch.rand(40, 1, 8, 8, generator=random) for low in (0.0, 0.5))

def score(x):
    return x.flatten(1).mean(1)

def test_robust(assert_robust):
    report = assert_robust(score, threat="linf-8-255", id=x_id, ood=x_ood, min_auroc=0.9)
    assert report.results[0].attacked.auroc >= 0.9

def test_not_robust(assert_robust):
    assert_robust(lambda x: -score(x), threat="linf-8-255", id=x_id, ood={"bright": x_ood}, min_auroc=0.9)
"""


def brightness(x):
    return x.flatten(1).mean(1)


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(0)
    return [low + 0.7 * torch.rand(60, 1, 8, 8, generator=random) for low in (0.1, 0.17)]


@pytest.fixture
def robust(tmp_path, images):
    def call(detector=brightness, update=False, **options):
        asked = {"threat": QUICK, "id": images[0], "ood": images[1], "batch_size": 64, **options}
        return AssertRobust(tmp_path, update=update)(detector, **asked)

    return call


def test_pytest_finds_the_plugin():
    assert "oodattack.pytest_plugin" in {e.value for e in entry_points(group="pytest11")}, "install the package anew"


def test_it_works_in_a_test_file_with_nothing_else(tmp_path):
    (tmp_path / "test_mine.py").write_text(TEST_FILE)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--tb=short", "-q"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "AssertionError: not robust:" in done.stdout
    assert "on bright: AUROC must be >= 0.9, got 0.000" in done.stdout
    assert "robust.py" not in done.stdout  # the traceback ends in the user's file


def test_the_lowest_auroc_must_be_reached(robust):
    left = robust(min_auroc=0.0, accept_inconclusive=True).results[0].attacked.auroc
    assert 0.1 < left < 0.9
    robust(min_auroc=left, accept_inconclusive=True)
    with pytest.raises(AssertionError) as caught:
        robust(min_auroc=left + 0.001, accept_inconclusive=True)
    line = str(caught.value).splitlines()[1]
    assert line.startswith(f"  brightness, quick on ood: AUROC must be >= {left + 0.001:g}, got {left:.3f} (")


def test_an_attack_that_failed_is_no_evidence(robust, images):
    hidden = lambda x: (brightness(x)[:, None] > torch.arange(1000) / 1000).sum(1) / 1000  # no gradient
    bright = {"bright": images[1] * 0.2 + 0.8}
    with pytest.raises(AssertionError, match=r"on bright: AUROC 1\.000 is no evidence, the attack is inconclusive"):
        robust(hidden, ood=bright, min_auroc=0.9)
    robust(hidden, ood=bright, min_auroc=0.9, accept_inconclusive=True)


def test_a_threat_that_does_not_apply_is_no_pass(robust):
    with pytest.raises(AssertionError, match="liang-logit: nothing was attacked: the detector gives no"):
        robust(threat=[QUICK, "liang-logit"], min_auroc=0.0, accept_inconclusive=True)


@pytest.mark.parametrize("update", [True, False])
def test_a_baseline_of_nothing_but_threats_that_do_not_apply_is_no_pass(robust, tmp_path, update):
    robust({"mine": brightness}, threat=[QUICK, "liang-logit"], baseline="b.json", update=True)
    before = (tmp_path / "b.json").read_bytes()
    with pytest.raises(AssertionError, match="mine, liang-logit: nothing was attacked: the detector gives no logits"):
        robust({"mine": brightness}, threat="liang-logit", baseline="b.json", update=update)
    assert (tmp_path / "b.json").read_bytes() == before
    with pytest.warns(UserWarning, match="mine, liang-logit: nothing was attacked: the detector gives no logits"):
        robust({"mine": brightness}, threat=[QUICK, "liang-logit"], baseline="b.json")


SWEEP = Sweep(name="radii", members=tuple(
    QUICK.model_copy(update={"name": f"radii@{eps:g}", "eps": eps, "objective": "logits"}) for eps in (0.05, 0.1)
), source="test")  # fmt: skip


def test_a_sweep_that_does_not_apply_is_no_pass(robust):
    with pytest.raises(AssertionError, match="brightness, radii: nothing was attacked"):
        robust(threat=[QUICK, SWEEP], min_auroc=0.0, accept_inconclusive=True)


def test_the_reason_is_that_of_the_threat_and_its_members(robust):
    member = ThreatModel(**(QUICK.model_dump() | {"name": "of-logits", "objective": "logits"}))
    suite = Suite(name="some", members=(member,), source="test")
    with pytest.raises(AssertionError) as caught:
        robust(threat=["liang-latent", "liang-logit", suite, SWEEP, QUICK], min_auroc=0.0, accept_inconclusive=True)
    gives, has = "the detector gives no", "the detector has no `net` whose logits to follow"
    assert str(caught.value).splitlines()[1:] == [
        f"  brightness, liang-latent: nothing was attacked: {gives} `latent` to match",
        f"  brightness, liang-logit: nothing was attacked: {gives} logits to match",
        f"  brightness, some: nothing was attacked: {has}",
        f"  brightness, radii: nothing was attacked: {has}",
    ]


def test_the_whole_box_as_a_file_is_judged_like_any_threat(robust):
    box = Path(__file__).parent.parent / "threat_models" / "sanity-full-box.toml"
    with pytest.raises(AssertionError, match=r"sanity-full-box on ood: AUROC must be >= 0\.5, got 0\.000"):
        robust(threat=box, min_auroc=0.5)


def test_an_attack_that_fails_now_and_did_not_in_the_baseline_is_no_pass(robust, images):
    bright = {"bright": images[1] * 0.2 + 0.8}
    hidden = lambda x: (brightness(x)[:, None] > torch.arange(1000) / 1000).sum(1) / 1000  # no gradient
    robust({"mine": brightness}, ood=bright, baseline="b.json", update=True)
    robust({"mine": brightness}, ood=bright, baseline="b.json")
    with pytest.raises(AssertionError, match="is no evidence, the attack is inconclusive and was not in the baseline"):
        robust({"mine": hidden}, ood=bright, baseline="b.json")
    with pytest.warns(UserWarning, match="the attack is inconclusive now, and was not in the baseline") as caught:
        robust({"mine": hidden}, ood=bright, baseline="b.json", accept_inconclusive=True)
    assert caught[0].filename == __file__  # the user's test


def test_a_baseline_catches_a_worse_detector(robust, tmp_path):
    robust({"mine": brightness}, baseline="deep/baseline.json", update=True)
    assert (tmp_path / "deep" / "baseline.json").exists()
    robust({"mine": brightness}, baseline="deep/baseline.json")
    with pytest.raises(AssertionError, match="REGRESSION  mine, clean on ood: AUROC"):
        robust({"mine": lambda x: brightness(x) + 0.3 * x[:, 0, 0, 0]}, baseline="deep/baseline.json")


def test_two_calls_do_not_overwrite_one_baseline(images, tmp_path):
    written = set()
    asked = {"threat": QUICK, "id": images[0], "ood": images[1], "batch_size": 64}
    AssertRobust(tmp_path, update=True, written=written)(brightness, baseline="b.json", **asked)
    before = (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match=r"must be a file of its own for each call, got '\./b\.json' twice"):
        AssertRobust(tmp_path, update=True, written=written)(lambda x: -brightness(x), baseline="./b.json", **asked)
    assert (tmp_path / "b.json").read_bytes() == before
    AssertRobust(tmp_path, update=True)(brightness, baseline="b.json", **asked)  # of another session


def test_a_file_of_the_command_line_fits(robust, tmp_path):
    from oodattack.gate import measured

    report = robust({"mine": brightness}, baseline="baseline.json", update=True)
    kept = measured(tmp_path / "baseline.json")
    assert [(c.threat, c.attacked.auroc) for c in kept.cells] == [(r.threat, r.attacked.auroc) for r in report.results]
    assert all(kept.rows(c.detector, a) for c in kept.cells for a in (c.clean, c.attacked))


BAD = {
    "neither": ({}, ValueError, "must be given `min_auroc` or `baseline`, got neither"),
    "both": ({"min_auroc": 0.5, "baseline": "b.json"}, ValueError, "got both"),
    "per cent": ({"min_auroc": 80}, ValueError, r"`min_auroc` must be in \[0, 1\], got 80"),
    "no baseline": ({"baseline": "b.json"}, ValueError, "`baseline` must be a file, got none .*--oodattack-update"),
    "a number for images": ({"min_auroc": 0.5, "id": 3}, ValueError, "`id` must be a tensor of images .*, got int"),
    "8-bit arrays": ({"min_auroc": 0.5, "id": np.zeros((2, 1, 8, 8), np.uint8)}, ValueError, r"float\(\) / 255\.$"),
    "an unknown set": ({"min_auroc": 0.5, "ood": "digit"}, ValueError, "must be one of"),
    "an unknown threat": ({"min_auroc": 0.5, "threat": "linf"}, ValueError, "must be"),
}


@pytest.mark.parametrize(("options", "kind", "says"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_first(robust, options, kind, says):
    with pytest.raises(kind, match=says):
        robust(**options)


def test_names_of_data_sets_will_do(robust):
    report = robust(id="digits", ood={"six": "digits-6-9"}, min_auroc=0.0, accept_inconclusive=True)
    assert (report.spec.id.n, [s.name for s in report.spec.ood]) == (325, ["six"])
    assert list(report.spec.threats) == ["quick", "sanity-full-box"]  # which shows that searches work


def test_loaders_will_do(robust, images):
    of = [DataLoader(TensorDataset(x), batch_size=7) for x in images]
    one, other = (robust(id=id, ood=ood, min_auroc=0.0, accept_inconclusive=True) for id, ood in (of, images))
    assert [r.attacked.auroc for r in one.results] == [r.attacked.auroc for r in other.results]
    assert robust(id=of[0], ood="noise", min_auroc=0.0, accept_inconclusive=True).spec.ood[0].name == "noise"


@pytest.mark.parametrize("aim", ["raise", "both"])
def test_a_detector_can_pass_whatever_side_is_attacked(robust, images, aim):
    weak = ThreatModel(**(QUICK.model_dump() | {"name": "weak", "aim": aim, "eps": 1e-3}))
    report = robust(threat=weak, ood=images[1] * 0.2 + 0.8, min_auroc=0.9)
    assert list(report.spec.threats) == ["weak", "sanity-full-box-both"]


def test_threats_may_come_in_any_order(robust, images):
    report = robust(threat={"linf-8-255": QUICK}.values(), ood=images[1] * 0.2 + 0.8, min_auroc=0.0)
    assert list(report.spec.threats) == [QUICK.name, "sanity-full-box"]


def test_a_whole_box_of_another_name_is_one(robust, images):
    box = ThreatModel(**(QUICK.model_dump() | {"name": "my-box", "eps": 1.0, "queries": 50}))
    weak = ThreatModel(**(QUICK.model_dump() | {"name": "weak", "eps": 1e-3}))
    report = robust(threat=[weak, box], ood=images[1] * 0.2 + 0.8, min_auroc=0.0)
    assert [(r.threat, r.whole_box) for r in report.results] == [("weak", False), ("my-box", True)]
    elsewhere = ThreatModel(**(box.model_dump() | {"name": "from-noise", "start": "noise"}))
    report = robust(threat=[weak, elsewhere], starts={"noise": images[1]}, min_auroc=0.0, accept_inconclusive=True)
    assert list(report.spec.threats) == ["weak", "from-noise", "sanity-full-box"]
    both = ThreatModel(**(weak.model_dump() | {"name": "both", "aim": "both"}))
    report = robust(threat=[both, box], ood=images[1] * 0.2 + 0.8, min_auroc=0.0)
    assert list(report.spec.threats) == ["both", "my-box", "sanity-full-box-both"]
