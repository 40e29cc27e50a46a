"""Every attack, against a linear score whose best perturbation is known in closed form."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from oodattack.attack import Attack, Seen, maximise
from oodattack.attacks import ATTACKS
from oodattack.geometry import norm_of, row_random
from oodattack.threat import ThreatModel

# name: (step size, share of the optimum it must reach in 60 queries). Adamax moves every coordinate at the same speed:
# on a linear score it ends at the sign vector, in l2 ||w||_1 / (2 ||w||_2) = 0.813 of the best; l1 is not its ball.
REACH = {
    "pgd": (0.25, {"linf": 0.99, "l2": 0.99, "l1": 0.99}),
    "apgd": (None, {"linf": 0.99, "l2": 0.99, "l1": 0.99}),
    "pgd-decay": (None, {"linf": 0.99, "l2": 0.99, "l1": 0.99}),
    "adamax": (0.25, {"linf": 0.99, "l2": 0.81, "l1": 0.3}),
    "random-search": (None, {"linf": 0.5, "l2": 0.5, "l1": 0.5}),
}
WEIGHT = torch.tensor([[[1.0, -2.0], [0.5, 4.0]]], dtype=torch.float64)
DUAL = {"linf": 7.5, "l2": WEIGHT.norm().item(), "l1": 4.0}  # 1 + 2 + 0.5 + 4; sqrt(21.25); largest entry


def score(x: Tensor) -> Tensor:
    return (WEIGHT.to(x.dtype) * x).flatten(1).sum(1)


def lift(x: Tensor, _rows: Tensor) -> Tensor:
    return score(x)


def limits(name: str, norm: str = "linf", **changes) -> ThreatModel:
    fields = dict(
        name="t", norm=norm, eps=0.1, aim="raise", objective="score", start="ood", init="ball", attack=name,
        step_size=REACH[name][0], queries=60, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    return ThreatModel(**(fields | changes))


def run(threat: ThreatModel, x: Tensor, loss=lift, seed: int = 0, **options):
    random = row_random(seed, "test", range(len(x)), "cpu", x.dtype)
    options = {"keep_clean": True} | options
    return maximise(loss, x, threat, ATTACKS[threat.attack].build(threat), random, **options)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", REACH)
def test_attack_reaches_the_dual_norm(name, norm):
    # max <w, d> over ||d|| <= eps is eps times the dual norm of w
    x = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    threat = limits(name, norm)
    found = run(threat, x)
    gain, best = score(found.x_adv) - score(x), threat.eps * DUAL[norm]
    assert (norm_of(found.x_adv - x, norm) <= threat.eps + 1e-12).all()
    assert (gain <= best + 1e-12).all()
    assert (gain >= REACH[name][1][norm] * best).all()


@pytest.mark.parametrize("name", REACH)
def test_attack_contract(name):
    x = torch.rand(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calls = 0

    def counted(z: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert len(rows) == len(z)
        return score(z)

    threat = limits(name, queries=7)
    first = run(threat, x, counted)
    assert calls == 7  # the budget is spent exactly
    assert (first.queries == 7).all()
    assert torch.equal(first.x_adv, run(threat, x, counted).x_adv)  # same streams, same result
    assert ((first.x_adv >= 0) & (first.x_adv <= 1)).all()
    assert (score(first.x_adv) >= score(x)).all()  # never worse than clean
    assert torch.allclose(score(first.x_adv), first.value)


@pytest.mark.parametrize("name", REACH)
def test_rows_do_not_influence_one_another(name):
    x = torch.rand(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = run(limits(name), x).x_adv
    threat = limits(name)
    for row in range(4):
        random = row_random(0, "test", [row], "cpu", x.dtype)
        alone = maximise(lift, x[row : row + 1], threat, ATTACKS[name].build(threat), random, keep_clean=True)
        assert torch.allclose(alone.x_adv[0], together[row])


@pytest.mark.parametrize("name", REACH)
def test_finished_rows_leave_the_batch(name):
    x = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    sizes = []

    def watched(z: Tensor, rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return score(z)

    easy = score(x)[0].item()  # row 1 is content with the clean value, the others never are
    enough = torch.tensor([torch.inf, easy, torch.inf], dtype=torch.float64)
    spent = []
    found = run(limits(name), x, watched, enough=enough, progress=spent.append)
    assert sizes[0] == 3 and set(sizes[1:]) == {2}
    assert found.queries.tolist() == [60, 1, 60]
    assert sum(spent) == 3 * 60  # what was saved is reported as well
    free = run(limits(name), x)
    assert torch.equal(found.x_adv[[0, 2]], free.x_adv[[0, 2]])  # and the others do not notice


GROUNDS = {  # images on which pixels meet the walls of the box long before the budget is spent
    "uniform": lambda draw: torch.rand(2, 3, 16, 16, generator=draw, dtype=torch.float64),
    "black": lambda draw: (
        torch.rand(2, 1, 16, 16, generator=draw, dtype=torch.float64)
        * (torch.rand(2, 1, 16, 16, generator=draw, dtype=torch.float64) < 0.4)
    ),
}


def best_in_l1_and_box(w: Tensor, x: Tensor, eps: float) -> Tensor:
    """max <w, d> over ||d||_1 <= eps with x + d in the box: the steepest pixels, each as far as its wall."""
    room = torch.where(w > 0, 1 - x, x).flatten(1)
    order = w.abs().flatten(1).argsort(dim=1, descending=True)
    room, slope = room.gather(1, order), w.abs().flatten(1).gather(1, order)
    used = (eps - (room.cumsum(1) - room)).clamp(min=0).minimum(room)
    return (used * slope).sum(1)


@pytest.mark.parametrize("eps", [0.5, 2.0, 12.0])
@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize(("name", "share"), [("pgd", 0.93), ("apgd", 0.99), ("pgd-decay", 0.99)])
def test_l1_goes_on_where_pixels_meet_the_walls(name, share, ground, eps):
    draw = torch.Generator().manual_seed(0)
    x = GROUNDS[ground](draw)
    w = torch.randn(x[:1].shape, generator=draw, dtype=torch.float64).expand_as(x)
    slope = lambda z, rows: (w[rows] * z).flatten(1).sum(1)
    found = run(limits(name, "l1", eps=eps), x, slope)
    gain = found.value - slope(x, torch.arange(2))
    best = best_in_l1_and_box(w, x, eps)
    assert (gain <= best + 1e-9).all()
    assert (gain >= share * best).all()


@pytest.mark.parametrize(
    ("name", "step_size", "share"), [("apgd", None, 0.9), ("pgd-decay", None, 0.9), ("pgd", 0.0625, 0.85)]
)
@pytest.mark.parametrize("side", [8, 16])
def test_a_patch_is_searched_in_steps_of_a_pixels_range(name, step_size, share, side):
    # the best value of a pixel lies within its range; a step of the side in pixels could only go from wall to wall
    draw = torch.Generator().manual_seed(0)
    x, peak = (torch.rand(2, 3, 24, 24, generator=draw, dtype=torch.float64) for _ in range(2))
    peak, window = 0.2 + 0.6 * peak, slice((24 - side) // 2, (24 + side) // 2)
    off = lambda z, rows: -(z - peak[rows]).abs()[..., window, window].flatten(1).sum(1)
    fields = {"norm": "patch", "eps": side, "init": "clean", "step_size": step_size, "queries": 42}
    found = run(limits(name, **fields), x, off)
    assert (found.value >= (1 - share) * off(x, torch.arange(2))).all()


@pytest.mark.parametrize(
    "fields", [{"queries": 2}, {"queries": 10, "draws": 5}, {"queries": 40, "restarts": 4}], ids=str
)
def test_confirmations_stay_within_the_budget(fields):
    x = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    asked = []

    def never(images: Tensor, _rows: Tensor) -> Tensor:
        asked.append(images.clone())
        return torch.zeros(len(images), dtype=torch.bool)

    found = run(limits("pgd", **fields), x, enough=torch.full((3,), -1.0, dtype=torch.float64), confirm=never)
    assert (found.queries <= fields["queries"]).all()
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(asked))  # nobody asks twice about one point


def test_restarts_share_the_queries_and_keep_the_best():
    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    found = run(limits("pgd", restarts=4, queries=41), x)
    assert (found.queries == 41).all()
    assert (score(found.x_adv) >= score(run(limits("pgd", queries=11), x).x_adv)).all()


def test_last_iterate_is_returned_even_when_it_is_worse():
    # two steps of 2 eps along a valley: the score falls after the first one
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    peak = lambda z, _rows: -(z - 0.54).abs().flatten(1).sum(1)
    fields = dict(eps=0.2, init="clean", queries=4, aim="hide")
    last = run(limits("pgd", iterate="last", step_size=0.5, **fields), x, peak, keep_clean=False)
    best = run(limits("pgd", iterate="best", step_size=0.5, **fields), x, peak, keep_clean=False)
    # by hand: 0.5, 0.6, 0.5, 0.6, and 0.5 is nearer to the peak
    assert last.x_adv.item() == pytest.approx(0.6)
    assert best.x_adv.item() == pytest.approx(0.5)


def test_last_iterates_of_several_restarts_compete_by_row():
    x = torch.rand(8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fields = dict(iterate="last", step_size=2.0, queries=2)
    bumpy = lambda z, _rows: (40 * z).sin().flatten(1).sum(1)
    threats = [limits("pgd", restarts=k, **fields | {"queries": 2 * k}) for k in (1, 4)]
    values = [run(threat, x, bumpy, keep_clean=False).value for threat in threats]
    assert (values[1] >= values[0]).all() and (values[1] > values[0]).any()


def test_clean_point_is_kept_when_nothing_beats_it():
    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    worse_elsewhere = lambda z, _rows: -(z - 0.5).abs().flatten(1).sum(1)
    found = run(limits("apgd"), x, worse_elsewhere)
    assert torch.equal(found.x_adv, x)
    assert found.clean_best.all()


def test_zero_and_non_finite_gradients_are_counted():
    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)

    def flat_then_bad(z: Tensor, rows: Tensor) -> Tensor:
        moved = (z.flatten(1) != 0.5).any(1)
        return 0 * z.flatten(1).sum(1) * torch.where((rows == 1) & moved, torch.nan, 1.0)

    found = run(limits("pgd"), x, flat_then_bad)
    assert found.gradients.tolist() == [58, 58]  # neither the clean query nor the last one takes a gradient
    assert found.zero_gradients.tolist() == [58, 58]  # the NaN gradient is made zero and counted as well
    assert found.non_finite.tolist() == [0, 59]
    assert found.x_adv.isfinite().all()


def test_a_judge_without_a_finite_value_is_counted_and_passed_over():
    # a step adds 4 * 0.01 to the sum, 2 at the start; the judge is infinite beyond 2.05
    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    total = lambda z, _rows: z.flatten(1).sum(1)
    broken = lambda z, rows: total(z, rows).where(total(z, rows) < 2.05, torch.inf)
    found = run(limits("pgd", init="clean", step_size=0.1, queries=11), x, total, judge=broken)
    assert found.value.tolist() == [2.0, 2.0] and torch.equal(found.x_adv, x)
    assert found.non_finite.tolist() == [2, 2]  # the seventh query and the last one


@pytest.mark.parametrize("queries", [2, 3, 7, 8, 11, 12, 13, 101, 501])
@pytest.mark.parametrize("judged", [False, True])
def test_an_attack_is_told_how_many_points_it_sends(judged, queries):
    planned, sent, asked = [], [], []

    def start(x, t, r, steps):
        planned.append(steps)
        return x, None

    def loss(z: Tensor, _rows: Tensor) -> Tensor:
        sent.append(z)
        return score(z)

    def judge(z: Tensor, _rows: Tensor) -> Tensor:
        asked.append(z)
        return score(z)

    attack = Attack(start, lambda seen, x, t, r, s: (seen.x_adv + 1e-4, s), white_box=False)
    x, random = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64), row_random(0, "t", range(2), "cpu", torch.float64)
    found = maximise(
        loss, x, limits("pgd", queries=queries), attack, random, keep_clean=True, judge=judge if judged else None
    )
    assert (found.queries == queries).all() and len(sent) + len(asked) == queries
    points = {tuple(z.flatten().tolist()) for z in sent[1 - int(judged) :] + asked[1:]}  # without the clean query
    assert planned == [len(points)]


class Halting(NamedTuple):
    stopped: Tensor
    sent: int


@pytest.mark.parametrize("iterate", ["best", "last"])
@pytest.mark.parametrize("judged", [False, True])
def test_a_row_that_its_step_stops_keeps_its_last_point(judged, iterate):
    # a step adds 4 * 0.01 to the sum, 2 at the start; the second row stops beside its fourth point, the first does not
    ends = torch.tensor([99, 4])
    attack = Attack(
        lambda x, t, r, steps: (x + 0.01, Halting(torch.zeros(len(x), dtype=torch.long), 1)),
        lambda seen, x, t, r, s: (seen.x_adv + 0.01, Halting(2 * (s.sent + 1 >= ends[: len(x)]), s.sent + 1)),
        white_box=False,
    )
    x, random = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64), row_random(0, "t", range(2), "cpu", torch.float64)
    total = lambda z, _rows: z.flatten(1).sum(1)
    thrice = lambda z, rows: 3 * total(z, rows)
    threat, spent = limits("pgd", queries=8, iterate=iterate), []
    options = {"judge": thrice} if judged else {}
    found = maximise(total, x, threat, attack, random, keep_clean=True, progress=spent.append, **options)
    assert torch.allclose(found.value, (thrice if judged else total)(found.x_adv, None))  # in the judge's scale
    assert total(found.x_adv, None)[1].item() == pytest.approx(2.16)
    assert found.stopped.tolist() == [0, 2]
    # the clean query, four points and what the judge says of the fourth
    assert found.queries.tolist() == [8, 6 if judged else 5]
    assert sum(spent) == 2 * 8


def test_a_backward_that_fails_is_told_in_one_line():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.flatten(1).sum(1)

        @staticmethod
        def backward(ctx, _grad):
            raise KeyError("weights\nmissing")

    with pytest.raises(
        ValueError, match=r"^the gradient of a score must be computable, got KeyError: .* line \d+\)\. Corr"
    ):
        run(limits("pgd"), torch.full((2, 1, 2, 2), 0.5), lambda z, _rows: Broken.apply(z))


def test_inputs_outside_the_unit_box_are_named():
    with pytest.raises(ValueError, match=r"`x` must be in \[0, 1\], got \[-1, 2\]. Move mean/std inside"):
        run(limits("pgd"), torch.tensor([[[[-1.0, 0.0], [0.0, 2.0]]]]))


def test_a_loss_that_is_not_finite_on_clean_inputs_is_refused():
    with pytest.raises(FloatingPointError, match="got 2 of 2"):
        run(limits("pgd"), torch.full((2, 1, 2, 2), 0.5), lambda z, _: z.flatten(1).sum(1) / 0)


def test_a_search_that_ignores_the_ball_is_projected():
    far = Attack(lambda x, t, r, n: (x + 9, None), lambda seen, x, t, r, s: (x - 9, None), white_box=False)
    x = torch.full((2, 1, 2, 2), 0.95, dtype=torch.float64)
    random = row_random(0, "test", range(2), "cpu", x.dtype)
    found = maximise(lift, x, limits("pgd"), far, random, keep_clean=False)
    assert (norm_of(found.x_adv - x, "linf") <= 0.1 + 1e-12).all() and found.x_adv.max() <= 1


def test_seen_carries_what_the_step_needs():
    seen_values = []

    def step(seen: Seen, x, t, r, s):
        seen_values.append((seen.value.clone(), seen.grad.clone()))
        return seen.x_adv, s

    attack = Attack(lambda x, t, r, n: (x, None), step)
    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    maximise(lift, x, limits("pgd", queries=3), attack, row_random(0, "t", range(2), "cpu", x.dtype), keep_clean=False)
    assert len(seen_values) == 2  # no step after the last query
    assert torch.equal(seen_values[0][1][0], WEIGHT)
