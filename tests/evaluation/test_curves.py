"""AUROC against queries and against eps."""

from types import SimpleNamespace

import pytest
import torch

from oodattack.attack import milestones
from oodattack.evaluation import evaluate
from oodattack.evaluation.curves import unfinished, unsettled
from oodattack.numbers import falls_to_chance
from oodattack.threat import Sweep, ThreatModel

FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="clean", attack="apgd", queries=30,
    restarts=1, iterate="best", source="test",
)  # fmt: skip


def brightness(x):
    return x.flatten(1).mean(1)


def grey(low: float, high: float, n: int) -> torch.Tensor:
    return torch.linspace(low, high, n, dtype=torch.float64).view(-1, 1, 1, 1).expand(n, 1, 3, 3).clone()


def test_milestones():
    assert milestones(1) == (1,)
    assert milestones(50) == (1, 2, 5, 10, 20, 25, 50)  # half of all is among them
    assert milestones(130) == (1, 2, 5, 10, 20, 50, 65, 100, 130)


@pytest.mark.parametrize(
    ("points", "at"),
    [
        ([(0, 0.9), (1, 0.7), (2, 0.3)], 1.5),  # halfway from .7 to .3
        ([(0, 0.9), (1, 0.5)], 1.0),
        ([(0, 0.4), (1, 0.3)], 0),  # no better than chance to begin with
        ([(0, 0.9), (1, 0.6)], None),
    ],
)
def test_eps50_by_hand(points, at):
    assert falls_to_chance(points) == (at if at is None else pytest.approx(at))


def test_what_the_second_half_of_the_queries_took_is_counted_from_where_the_search_began():
    points = [(0, 0.9), (101, 0.9), (150, 0.8), (200, 0.5)]
    assert unfinished(points, after=100) == pytest.approx(0.3)  # half of its own 100 are spent at 150: .8 to .5
    assert unfinished(points) == pytest.approx(0.4)  # and of all 200 at 100, where it stood at .9
    assert unfinished(points[:2]) is None and unfinished(None) is None


def slow(**fields):
    """Verdict and indicators of plain steps within 0.1 on brightness, of sets that are 0.15 apart at least."""
    threat = ThreatModel(name="slow", **(FIELDS | {"eps": 0.1, "queries": 20, "attack": "pgd"} | fields))
    sets = {"id": grey(0.2, 0.4, 20), "ood": {"far": grey(0.55, 0.75, 20)}}
    return evaluate(brightness, **sets, threats=[threat, "sanity-full-box"], seed=0).results[0]


def test_steps_too_short_for_the_ball_are_no_evidence_though_auroc_says_nothing_of_them():
    found = slow(step_size="1/25")  # 18 steps of .004: 8 are taken at half, .032, and 18 at the end, .072
    assert (found.attacked.auroc, found.indicators["unfinished_drop"]) == (1.0, 0.0)
    assert found.indicators["unsettled_auroc"] == 0.0  # .072 + 18 x .04 = .79 darker
    assert found.verdict == "inconclusive" and "had not slowed down" in found.reason


def test_a_search_that_reaches_the_border_in_the_first_half_has_settled():
    found = slow(step_size="1/4")
    assert found.indicators["unsettled_auroc"] is None and found.verdict == "holds"


def test_a_search_without_a_single_step_used_no_gradient():
    found = slow(step_size=1, queries=2)  # the clean call, and the first point
    assert not found.indicators["white_box"] and found.verdict == "inconclusive"


def test_the_pace_by_hand():
    clean = {-1: torch.tensor([5.0, 6.0]), 1: torch.tensor([0.0, 1.0])}
    steady = SimpleNamespace(history=torch.tensor([[5.0, 4.5, 4.0], [6.0, 5.6, 5.0]]))  # .5 and .6 of 1 at last
    # 4 - 18 x .5 = -5 and 5 - 18 x .6 = -5.8
    outcome = SimpleNamespace(signed=[(-1, steady)])
    assert unsettled(clean, outcome, (1, 5, 10)) == 0.0
    assert unsettled(clean, outcome, (1, 4, 9)) is None  # too few for a pace
    settled = SimpleNamespace(history=torch.tensor([[0.0, 2.0, 2.1], [1.0, 3.0, 3.1]]))  # .1 of 2.1 at last
    assert unsettled(clean, SimpleNamespace(signed=[(1, settled)]), (1, 5, 10)) is None
    stuck = SimpleNamespace(history=clean[-1][:, None].expand(2, 3))
    assert unsettled(clean, SimpleNamespace(signed=[(-1, stuck)]), (1, 5, 10)) is None
    unwritten = SimpleNamespace(history=None)
    assert unsettled(clean, SimpleNamespace(signed=[(-1, unwritten)]), (1, 5, 10)) is None


def test_sweep_finds_the_radius_that_leaves_one_half():
    # ID at 0.2 .. 0.4, OOD the same 0.3 higher: they coincide, AUROC 0.5, once every OOD image is 0.3 darker
    members = tuple(ThreatModel(name=f"s@{eps}", **(FIELDS | {"eps": eps})) for eps in (0.1, 0.2, 0.28, 0.32, 0.4))
    sweep = Sweep(name="s", members=members, source="test")
    report = evaluate(brightness, id=grey(0.2, 0.4, 40), ood={"near": grey(0.5, 0.7, 40)}, threats=[sweep], seed=0)
    curve = next(c for c in report.curves if c.against == "eps")
    assert [eps for eps, _ in curve.points] == [0, 0.1, 0.2, 0.28, 0.32, 0.4]
    assert curve.eps50 == pytest.approx(0.3, abs=0.005)
    assert [r.threat for r in report.results] == [m.name for m in members]


def test_queries_curve_ends_at_the_attacked_number():
    report = evaluate(
        brightness,
        id=grey(0.2, 0.4, 20),
        ood={"near": grey(0.35, 0.5, 10)},
        threats=[ThreatModel(name=aim, **(FIELDS | {"aim": aim})) for aim in ("hide", "raise", "both")],
        seed=0,
    )
    assert {c.threat for c in report.curves} == {"hide", "raise", "both"}
    for curve, result in zip(report.curves, report.results, strict=True):
        assert curve.exact
        assert [q for q, _ in curve.points] == [0, 1, 2, 5, 10, 15, 20, 30]
        assert (
            curve.points[0][1] == curve.points[1][1] == pytest.approx(result.clean.auroc)
        )  # the first query is the clean call
        assert curve.points[-1][1] == pytest.approx(result.attacked.auroc, abs=0.01)  # ties
