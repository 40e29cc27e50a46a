"""Searches whose result is no evidence, whatever it is."""

import pytest
import torch

from oodattack.detector import Surrogate
from oodattack.evaluation import evaluate
from oodattack.evaluation.shortfall import shortfall
from oodattack.threat import Suite, ThreatModel

FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="clean", attack="pgd", step_size=1,
    queries=20, restarts=1, iterate="best", source="test",
)  # fmt: skip
THEIRS = {"step_size": None}


def threat(**fields):
    return ThreatModel(**({"name": "own"} | FIELDS | fields))


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [
        ({}, None),
        ({"queries": 3}, "takes a single step"),  # the clean call, the first point and one step from it
        ({"queries": 4}, "takes 2 steps only"),
        ({"queries": 9}, "takes 7 steps only"),
        ({"queries": 10}, None),
        ({"queries": 10, "step_size": 1 / 10}, "does not get to the edge of the ball in 8 steps of 0.1 eps"),
        ({"queries": 10, "step_size": 1 / 8}, None),
        ({"queries": 51, "step_size": 1 / 49}, None),  # whose product is less than 1 by rounding
        ({"queries": 12, "step_size": 0.02, "norm": "patch", "eps": 2}, None),  # a share of something else
        ({"queries": 52, "step_size": 2 / 255}, "does not get to the edge of the ball in 50 steps of 0.00784 eps"),
        ({"queries": 5, "restarts": 2}, "takes a single step"),  # two calls for each restart
        ({"queries": 6, "draws": 2}, "takes a single step"),  # three values of two calls
        ({"queries": 3, "attack": "square", "step_size": None}, None),  # whose lack is another one
        (THEIRS | {"attack": "torchattacks:PGD"}, None),
        (THEIRS | {"attack": "torchattacks:PGD", "queries": 5}, "takes 3 steps only"),
        (THEIRS | {"attack": "torchattacks:VMIFGSM", "queries": 38}, "takes 6 steps only"),
        (THEIRS | {"attack": "torchattacks:FGSM"}, "takes a single step"),
        (THEIRS | {"attack": "torchattacks:PGDRS"}, "follows the score under heavy noise"),
        (THEIRS | {"attack": "torchattacks:SINIFGSM"}, "is made to transfer to other scores"),
        (THEIRS | {"attack": "torchattacks:FAB"}, "stops at a threshold of its own"),
    ],
)
def test_by_hand(fields, lacks):
    assert shortfall(threat(**fields), white_box=True) == lacks


def test_a_suite_lacks_what_all_of_its_members_do():
    one, other = threat(queries=3), threat(queries=20).model_copy(update={"name": "longer"})
    assert shortfall(Suite(name="s", members=(one,), source="test"), white_box=True) == "takes a single step"
    assert shortfall(Suite(name="s", members=(one, other), source="test"), white_box=True) is None


@pytest.mark.parametrize("fields", [{"queries": 3}, THEIRS | {"attack": "torchattacks:FGSM"}])
def test_one_step_that_breaks_nothing_is_no_evidence(fields):
    x = torch.linspace(0.1, 0.3, 12).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    threats = [threat(**fields), "sanity-full-box"]
    sets = {"id": x, "ood": {"far": x + 0.6}}
    (result, _) = evaluate(lambda x: x.mean((1, 2, 3)), **sets, threats=threats, seed=0).results
    assert result.attacked.auroc == 1.0
    assert result.verdict == "inconclusive" and "the search takes a single step" in result.reason


def test_a_score_without_a_gradient_asks_for_a_surrogate():
    x = torch.linspace(0.1, 0.3, 12).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    score = lambda x: torch.from_numpy(x.detach().numpy().mean((1, 2, 3)))
    report = evaluate(
        score,
        id=x,
        ood={"far": x + 0.6},
        threats=[threat(), threat(attack="square", step_size=None, name="black-box")],
        seed=0,
    )
    reasons = [result.reason for result in report.results]
    assert "the search found no gradient in the score (give the detector a `surrogate` that has one)" in reasons[0]
    assert "used no gradient" in reasons[1] and "surrogate" not in reasons[1]  # a black box by its own choice
    score.surrogate = Surrogate("mean", lambda x: x.mean((1, 2, 3)))
    (result,) = evaluate(score, id=x, ood={"far": x + 0.6}, threats=[threat()], seed=0).results
    assert "no gradient" not in result.reason and result.surrogate == "mean"
