"""Certified numbers beside attacked ones: on a linear score the sandwich closes."""

import pytest
import torch
from torch import nn

import oodattack as oa
from oodattack.certificates import check_sound
from oodattack.report.page import figures
from oodattack.threat import ThreatModel, read_threat

WEIGHT = torch.tensor([[1.0, -2.0, 0.5, 0.25], [0.0, 0.0, 0.0, 0.0]])
FIELDS = dict(
    norm="linf", eps=0.05, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=40,
    restarts=1, iterate="best", source="test",
)  # fmt: skip


def linear() -> oa.detectors.MaxLogit:
    """max(w x, 0) is w x where that is positive: a linear score with a known worst case."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    network[1].weight.data, network[1].bias.data = WEIGHT.double(), torch.tensor([2.0, 0.0]).double()
    return oa.detectors.MaxLogit(oa.Classifier(network.eval()))


def images(low: float, high: float, seed: int) -> torch.Tensor:
    x = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * x


def far() -> torch.Tensor:
    """Brighter in the second pixel, which weighs -2: OOD scores are higher by a third of their spread or more."""
    x = images(0.3, 0.6, 1)
    x[:, 0, 0, 1] += 0.15
    return x


def report(threats, certify=True, detector=None):
    detector = detector or linear()
    return oa.evaluate(detector, id=images(0.35, 0.65, 0), ood={"far": far()}, threats=threats, seed=0, certify=certify)


@pytest.mark.parametrize("aim", ["hide", "raise", "both"])
def test_the_sandwich_closes_on_a_linear_score(aim):
    (found,) = report([ThreatModel(name="t", **FIELDS | {"aim": aim})]).results
    assert found.clean.auroc > found.attacked.auroc  # the ball matters
    assert found.certified_auroc == found.certified.auroc
    assert found.certified.auroc == pytest.approx(found.attacked.auroc, abs=2e-3)
    assert found.certified.auroc <= found.attacked.auroc
    assert found.certified.undecided <= 2e-3
    assert found.certified.fpr_at_95_id_tpr >= found.attacked.fpr_at_95_id_tpr
    assert (found.certified.radius is None) == (aim == "raise")


def test_radii_of_rows_by_hand():
    (found,) = report([ThreatModel(name="t", **FIELDS)]).results
    x_id, x_ood = images(0.35, 0.65, 0).flatten(1), far().flatten(1)
    w = WEIGHT[0].double()
    threshold = oa.metrics.id_threshold(-(x_id @ w + 2), tpr=0.95)
    scores = -(x_ood @ w + 2)
    reach = ((scores - threshold) / w.abs().sum()).clamp(max=0.05)[scores > threshold]  # sum |w| = 3.75 an eps
    assert found.certified.radius.rows == len(reach)
    steps = (reach / (0.05 / 16)).floor() * 0.05 / 16  # bisected from below, to eps / 16
    assert found.certified.radius.median == pytest.approx(steps.quantile(0.5).item(), abs=1e-9)


def test_nothing_is_certified_unless_asked_for():
    (found,) = report([ThreatModel(name="t", **FIELDS)], certify=False).results
    assert found.certified is None and found.certified_auroc is None and found.uncertified is None


def test_what_has_no_bounds_says_why():
    threats = [ThreatModel(name="t", **FIELDS), ThreatModel(name="l1", **FIELDS | {"norm": "l1", "eps": 0.1})]
    mean = report(threats[:1], detector=lambda x: x.mean(dim=(1, 2, 3))).results[0]
    assert mean.certified is None and "must be an nn.Module to have bounds" in mean.uncertified
    assert report(threats[1:]).results[0].uncertified == "no bounds for the norm l1"
    quantile = {k: v for k, v in FIELDS.items() if k != "objective"} | {"aim": "quantile", "quantile": 0.5}
    assert report([ThreatModel(name="q", **quantile)]).results[0].uncertified == "no bounds for the aim quantile"


def test_a_sweep_has_a_certified_curve(tmp_path):
    lines = [f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in FIELDS.items() if k != "eps"]
    (tmp_path / "sweep.toml").write_text("\n".join(["eps = [0.01, 0.03]", *lines]))
    (curve,) = [c for c in report([read_threat(tmp_path / "sweep.toml")]).curves if c.against == "eps"]
    assert [eps for eps, _ in curve.certified] == [0, 0.01, 0.03]
    for (_, certified), (_, attacked) in zip(curve.certified, curve.points, strict=True):
        assert certified <= attacked <= certified + 2e-3
    (drawn,) = figures([curve])
    assert "Shaded" in drawn.note and 'class="between s0"' in drawn.drawing and ", certified 0." in drawn.drawing
    (bare,) = figures([curve.model_copy(update={"certified": None})])
    assert not bare.note and "between" not in bare.drawing


def test_an_attack_beyond_a_bound_is_a_bug():
    threat = ThreatModel(name="t", **FIELDS)
    check_sound("d", threat, torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 2.0]))
    with pytest.raises(RuntimeError, match=r"bounds of 'd' must hold under 't', got 2\.1 beyond 2 in row 1"):
        check_sound("d", threat, torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 2.1]))
