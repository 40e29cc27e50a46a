"""`adversarial_images`: what `evaluate` scores, row by row."""

import pytest
import torch

import oodattack as oa
from oodattack.evaluation import Keeper, evaluate
from oodattack.metrics import auroc
from oodattack.threat import Suite, Sweep, ThreatModel

FIELDS = dict(
    norm="linf", eps=0.05, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=8,
    restarts=1, iterate="best", source="test",
)  # fmt: skip
DRAW = torch.Generator().manual_seed(0)
ID = 0.7 * torch.rand(12, 1, 4, 4, generator=DRAW)
OOD = 0.1 + 0.7 * torch.rand(10, 1, 4, 4, generator=DRAW)


def threat(name="hide", **fields):
    return ThreatModel(name=name, **(FIELDS | fields))


def brightness(x):
    return x.flatten(1).mean(1)


TWO = (threat("a", attack="pgd", step_size=0.5), threat("b", attack="square", queries=20))
THREATS = {
    "one": threat(),
    "by file": "linf-8-255",
    "suite": Suite(name="two", members=TWO, source="test"),
    "shared budget": Suite(name="shared", members=TWO, queries=60, source="test"),
    "for the threshold": threat(aim="cross", objective=None, attack="fmn", init="clean", eps=1.0, queries=40),
    "after": threat(after=threat("first")),
    "quantile": threat(aim="quantile", quantile=0.5, objective=None),
}


@pytest.mark.parametrize("asked", THREATS.values(), ids=THREATS)
def test_they_are_what_is_scored(asked):
    x_adv = oa.adversarial_images(brightness, OOD, threat=asked, id=ID, seed=3, name="near")
    report = evaluate(brightness, id=ID, ood={"near": OOD}, threats=asked, seed=3)
    used = ID if report.spec.targets is None else ID[0::2]
    assert x_adv.shape == OOD.shape and x_adv.dtype == OOD.dtype and not x_adv.requires_grad
    assert 0 <= x_adv.min() and x_adv.max() <= 1 and not torch.equal(x_adv, OOD)
    assert auroc(brightness(used), brightness(x_adv)) == report.results[0].attacked.auroc
    if report.results[0].threat != "hide":  # one after another is measured from the first
        assert (x_adv - OOD).abs().max().item() == pytest.approx(report.results[0].distance)


def test_the_seed_decides():
    first, again, other = (
        oa.adversarial_images(brightness, OOD.double(), threat=threat(queries=2), id=ID.double(), seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.dtype == torch.float64
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_images_given_are_left_alone():
    before = OOD.clone()
    x_adv = oa.adversarial_images(brightness, OOD, threat=threat(), id=ID, seed=0)
    x_adv.zero_()
    assert torch.equal(before, OOD)


SWEEP = Sweep(name="radii", members=(threat("radii@0.1", eps=0.1), threat("radii@0.2", eps=0.2)), source="test")
WRONG = {
    "raise": ({"threat": threat(aim="raise")}, "`threat` must move OOD images alone, got aim 'raise' in 'hide'"),
    "both": ({"threat": "sanity-full-box-both"}, "`threat` must move OOD images alone, got aim 'both'"),
    "sweep": ({"threat": SWEEP}, "`threat` must have one radius, got the sweep 'radii'"),
    "start": ({"threat": "rubbish"}, "`threat` must start from `x`, got start 'noise' in 'rubbish'"),
    "unknown": ({"threat": "linf"}, "threat must be one of|must be"),
    "several": ({"detector": {"a": brightness, "b": brightness}}, "`detector` must be one, got 2 by name"),
    "8 bits": ({"x": 255 * OOD}, r"`x` must be in \[0, 1\]"),
    "another size": ({"x": OOD[:, :, :3]}, "`x` must have the shape of the ID images"),
    "unfit": ({"threat": "liang-logit"}, "gives no logits to match"),
    "no threat": ({"threat": 3}, "`threat` must be a name, a path or a threat model, got 3"),
}


@pytest.mark.parametrize(("change", "says"), WRONG.values(), ids=WRONG)
def test_what_has_no_such_images_is_refused(change, says):
    asked = {"detector": brightness, "x": OOD, "threat": threat(), "id": ID, "seed": 0} | change
    with pytest.raises(ValueError, match=says) as caught:
        oa.adversarial_images(asked.pop("detector"), asked.pop("x"), **asked)
    assert "\n" not in str(caught.value)


def test_a_keeper_that_keeps_nothing_changes_nothing():
    report = evaluate(brightness, id=ID, ood={"ood": OOD}, threats=threat(), seed=0, keeper=Keeper())
    x_adv = oa.adversarial_images(brightness, OOD, threat=threat(), id=ID, seed=0)
    assert auroc(brightness(ID), brightness(x_adv)) == report.results[0].attacked.auroc
