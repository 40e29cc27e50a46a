"""AUROC against queries and against eps."""

import pytest
import torch

from oodattack.attack import milestones
from oodattack.evaluation import evaluate
from oodattack.evaluation.curves import unfinished
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
