"""Suites whose members share one budget."""

from types import SimpleNamespace

import pytest
import torch

from oodattack.evaluation import evaluate, schedule
from oodattack.evaluation.front import unspent_front
from oodattack.evaluation.outcome import Scored
from oodattack.evaluation.sides import attack_ood
from oodattack.evaluation.turn import longer
from oodattack.metrics import auroc
from oodattack.threat import Suite, ThreatModel

SHARED = dict(norm="linf", eps=0.1, aim="hide", start="ood", init="ball", restarts=1, iterate="best", source="test")


def member(name: str, **fields) -> ThreatModel:
    return ThreatModel(name=name, **(SHARED | {"attack": "apgd", "objective": "score", "queries": 10} | fields))


def suite(*members: ThreatModel, queries: int = 40) -> Suite:
    return Suite(name="aa", members=members, queries=queries, source="test")


def brightness(x):
    return x.flatten(1).mean(1)


def images(*levels: float) -> torch.Tensor:
    """Grey images, one for each level, of slightly different pixels."""
    noise = torch.rand(len(levels), 1, 4, 4, generator=torch.Generator().manual_seed(len(levels)), dtype=torch.float64)
    return (torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1, 1) + 0.01 * noise).clamp(0, 1)


class Counted:
    """Brightness that counts the rows it scores with a gradient."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x):
        self.rows += len(x) if x.requires_grad else 0
        return brightness(x)


def run(detector, threats, ood, id_=None):
    id_ = images(*[0.3 + 0.01 * i for i in range(8)]) if id_ is None else id_
    return evaluate(detector, id=id_, ood={"near": ood}, threats=threats, seed=0)


def test_rows_that_have_passed_everything_cost_no_more():
    easy, hard = images(*[0.35] * 18), images(0.45, 0.45)  # 0.35 - 0.1 < 0.3 passes all; 0.45 - 0.1 some
    full_rows, most_easy_rows = Counted(), Counted()
    full = run(full_rows, [suite(member("a"), member("b"), queries=40)], images(*[0.45] * 20)).results[0]
    most_easy = run(most_easy_rows, [suite(member("a"), member("b"), queries=40)], torch.cat([easy, hard])).results[0]
    assert full.queries > 12  # all of the first member, a trial of the second
    assert most_easy.queries < 0.3 * full.queries
    assert most_easy_rows.rows < 0.4 * full_rows.rows  # the probe of the gradient included
    assert most_easy.attacked.auroc < 0.1  # 18 of 20 rows below every ID score


def test_progress_is_a_suites_budget_once_it_is_over_however_early_rows_were_finished():
    told = {}
    first = suite(member("a"), member("b"), queries=40)
    then = Suite(name="then", members=(member("then/c"),), queries=20, source="test")
    evaluate(
        brightness,
        id=images(*[0.3 + 0.01 * i for i in range(8)]),
        ood={"near": images(*[0.35] * 18, 0.45, 0.45)},
        threats=[first, then],
        seed=0,
        progress=lambda label, done, total: told.update({label[:4]: (done, total)}),
    )
    assert told["then"] == (60 * 20, 60 * 20)
    assert max(done for label, (done, _) in told.items() if label != "then") == 40 * 20


def test_the_budget_is_kept_and_rows_without_hope_are_dropped():
    result = run(
        brightness, [suite(member("a"), member("b"), member("c"), member("d"), queries=35)], images(*[0.9] * 6)
    ).results[0]
    assert result.queries <= 35
    assert result.queries == 20  # a, a trial of b, no third; 0.9 - 0.1 is still 0.4 away, so nothing more is spent
    assert result.verdict == "inconclusive"  # nothing beside it shows that the search works


def test_a_budget_without_room_for_a_longer_turn_is_one_search():
    ood = images(*[0.36 + 0.01 * i for i in range(20)])
    alone = run(brightness, [member("alone", queries=28)], ood).results[0]
    for queries, turns in ((28, 1), (30, 2)):  # less than three times the member's own 10, or not
        report = run(brightness, [suite(member("a"), member("b"), queries=queries)], ood)
        assert (len(report.curves[0].points) == 2) == (turns == 1)
        assert report.results[0].attacked.auroc <= alone.attacked.auroc + 0.02


def test_that_search_is_by_a_longer_member_where_a_few_rows_say_so():
    ood = images(*[0.36 + 0.01 * i for i in range(20)])
    slow, quick = (member(n, attack="pgd", step_size=s, queries=q) for n, s, q in (("s", 0.001, 10), ("q", 0.25, 12)))
    left = {m.name: run(brightness, [m], ood).results[0].attacked.auroc for m in (slow, quick)}
    for first, then in (
        (slow, quick),
        (quick.model_copy(update={"queries": 10}), slow.model_copy(update={"queries": 12})),
    ):
        result = run(brightness, [suite(first, then, queries=14)], ood).results[0]
        assert set(result.members) == {"s", "q"}
        assert result.queries <= 14
        # a quarter of the rows had the worse one, at most
        assert result.attacked.auroc <= left["q"] + (left["s"] - left["q"]) * 0.4


def test_what_is_left_buys_further_rounds_of_what_pays():
    ood = images(*[0.36 + 0.01 * i for i in range(20)])
    draws = member("a", attack="random-search", queries=4)  # the more of them, the darker the darkest
    once = run(brightness, [suite(draws, queries=4)], ood)
    more = run(brightness, [suite(draws, queries=200)], ood)
    assert more.results[0].attacked.auroc < once.results[0].attacked.auroc
    assert len(more.curves[0].points) > len(once.curves[0].points) == 2
    assert more.results[0].queries <= 200


def test_curve_falls_and_its_end_is_the_number():
    report = run(brightness, [suite(member("a"), member("square", attack="square"))], images(*[0.42] * 8))
    (curve,) = report.curves
    aurocs = [auroc for _, auroc in curve.points]
    assert curve.against == "queries" and curve.exact
    assert aurocs[0] == report.results[0].clean.auroc
    assert aurocs == sorted(aurocs, reverse=True)
    assert aurocs[-1] == report.results[0].attacked.auroc
    assert list(report.results[0].members) == ["a", "square"]


def test_crossing_member_measures_every_row():
    ood = images(0.35, 0.5, 0.9)
    near = member("fmn", attack="fmn", aim="cross", objective=None, init="clean", queries=40)
    result = run(brightness, [suite(member("a"), near, queries=80)], ood).results[0]
    # threshold: 95 % of the ID images are darker; the row of 0.35 is accepted as it is, that of 0.9 is out of reach
    assert result.crossing.share == pytest.approx(
        1 / 3 if brightness(ood)[1] - 0.1 > result.crossing.threshold else 2 / 3
    )
    assert result.crossing.p10 == 0


def test_both_sides_share_one_number():
    fields = {"aim": "both"}
    result = run(brightness, [suite(member("a", **fields), member("b", **fields))], images(*[0.5] * 8)).results[0]
    # 0.34 + 0.1 > 0.5 - 0.1: every pair changes sides, which neither side alone could do
    assert result.attacked.auroc < 0.1
    assert result.direction == "both"


def test_rows_of_both_sides_go_on_while_the_attacked_scores_overlap():
    # a ripple makes the search slow; clean scores are out of each other's reach, attacked ones overlap
    def rippled(x):
        return brightness(x) + (300 * x).sin().flatten(1).mean(1) / 150

    id_, ood = (images(*[level + 0.004 * i for i in range(12)]) for level in (0.30, 0.48))
    together = suite(member("a", aim="both"), member("b", aim="both"), queries=80)
    once = member("once", aim="both", queries=20)
    result, single = run(rippled, [together, once], ood, id_).results
    assert single.attacked.auroc < single.clean.auroc == 1
    assert result.attacked.auroc < single.attacked.auroc
    assert result.queries > 60


def test_clean_images_whose_8_bit_version_has_no_score_are_told():
    def fragile(x):
        grey = (255 * x).round() == 255 * x
        return brightness(x).masked_fill(grey.flatten(1).all(1), float("nan"))

    ood = images(*[0.45] * 6)
    result = run(fragile, [suite(member("a"), queries=20)], ood).results[0]
    assert result.attacked.auroc < result.clean.auroc
    assert result.non_finite_rows == len(ood)


def test_draws_are_for_scores_that_change():
    generator = torch.Generator().manual_seed(0)
    noisy = lambda x: brightness(x) + 0.01 * torch.randn(len(x), dtype=x.dtype, generator=generator)
    both = suite(member("a"), member("eot", draws=5, queries=50), queries=100)
    assert list(run(brightness, [both], images(*[0.42] * 8)).results[0].members) == ["a"]
    result = run(noisy, [both], images(*[0.42] * 8)).results[0]
    assert list(result.members) == ["a", "eot"]
    assert result.verdict == "broken"


def test_members_that_need_a_gradient_go_where_there_is_none():
    blind = lambda x: torch.from_numpy(x.detach().numpy().mean((1, 2, 3)))
    result = run(
        blind, [suite(member("a"), member("square", attack="square", queries=30))], images(*[0.42] * 8)
    ).results[0]
    assert list(result.members) == ["square"]
    result = run(blind, [suite(member("a"), member("b"), queries=30)], images(*[0.42] * 8)).results[0]
    assert list(result.members) == ["square"]  # as for one threat model: what serves in place of a gradient, once
    assert result.attacked.auroc < 1 and not result.indicators["white_box"] and result.queries > 10


def test_the_whole_box_is_searched_of_a_black_box_too():
    blind = lambda x: torch.from_numpy(x.detach().numpy().mean((1, 2, 3)))
    threats = ["linf-8-255", "sanity-full-box", "sanity-full-box-both"]
    report = run(blind, threats, images(*[0.6] * 8))
    assert not report.skipped
    narrow, *boxes = report.results
    assert narrow.indicators["full_box_auroc"] is not None
    assert all(box.attacked.auroc < 0.1 for box in boxes)


def test_order_of_rows_by_hand():
    scores = torch.tensor([0.1, 0.5, 0.9, 0.3])
    rows = unspent_front(
        "near",
        torch.zeros(4, 1, 2, 2),
        scores,
        scores,
        torch.tensor([0.2, 0.25, 0.45, 0.0]),
        sign=-1,
        budget=25,
        crossing=False,
    )
    # ID scores above each row: 3 of 4, 0, 0 and 1; a row wants all of them above it
    assert rows.passed().tolist() == [0.75, 0, 0, 0.25]
    a, b = member("a"), member("b")
    assert rows.open_rows(a).tolist() == [1, 2, 3, 0]  # all that have not passed everything, the furthest first
    rows.turns, rows.moved = 2, torch.tensor([0.0, 0.1, 0.1, 0.2])
    # 0.5 - 0.1 passes 0.45: a quarter; 0.9 - 0.1 passes nothing; 0.3 - 0.2 passes two more; 0.1 has stopped moving
    assert rows.open_rows(a).tolist() == [3, 1]
    assert rows.open_rows(a, trial=True).tolist() == [1, 2, 3, 0]
    rows.times(a)[3] += 1
    assert rows.open_rows(a).tolist() == [1, 3]  # who had it least comes first
    assert rows.open_rows(b).tolist() == [3, 1]
    rows.best.queries[1] = 16  # of 25, and a costs 10
    assert rows.open_rows(a).tolist() == [3]


def front_of(clean: list[float], against: list[float], budget: int = 100):
    scores = torch.tensor(clean, dtype=torch.float64)
    x = torch.zeros(len(clean), 1, 2, 2)
    other = torch.tensor(against, dtype=torch.float64)
    return unspent_front("near", x, scores, scores, other, sign=-1, budget=budget, crossing=False)


@pytest.mark.parametrize(("against", "expected"), [(0.46, [0, 1]), (0.44, [])])
def test_a_row_whose_last_turn_brought_nothing_has_a_tenth_of_what_it_moved_in_all_to_hope_for(against, expected):
    rows = front_of([1.0, 1.0], [against])
    rows.turns, rows.best = 3, rows.best._replace(scores=torch.tensor([0.5, 0.5], dtype=torch.float64))
    # it came from 1 to .5, and may still come to .45
    assert rows.open_rows(member("a")).tolist() == expected


def test_how_far_a_turn_brings_a_row_is_halved_by_each_turn_that_brings_less():
    rows, a, x = front_of([0.9, 0.9, 0.9], [0.1]), member("a"), torch.zeros(3, 1, 2, 2)
    for scores, moved in (
        ([0.5, 0.5, 0.9], [0.4, 0.4, 0.0]),
        ([0.5, 0.2, 0.95], [0.2, 0.3, 0.0]),  # nothing; less than before, more than half of it; worse
        ([0.5, 0.1, 0.8], [0.1, 0.15, 0.1]),  # nothing; .1 < .3 / 2; .1
    ):
        found = rows.best._replace(scores=torch.tensor(scores, dtype=torch.float64))
        rows.take(a, torch.arange(3), Scored(found, x))
        torch.testing.assert_close(rows.moved, torch.tensor(moved))


def test_a_turn_of_twice_its_own_queries_follows_twice_as_many_targets():
    latent = member("a", objective="latent", restarts=3)
    assert [longer(latent, queries).restarts for queries in (5, 10, 19, 20, 40)] == [3, 3, 3, 6, 6]
    assert [longer(member("a", restarts=3), queries).restarts for queries in (10, 20)] == [3, 3]
    assert longer(latent, 25).queries == 25


def test_rows_that_do_not_move_are_left_to_the_others():
    # no gradient at all for the first member: the black box must have its turn on every row
    class Masked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return brightness(x)

        @staticmethod
        def backward(ctx, grad):
            return torch.zeros(len(grad), 1, 4, 4, dtype=grad.dtype)

    white, blind = member("white", init="clean"), member("square", attack="square", queries=40)
    ood = images(*[0.40 + 0.001 * i for i in range(40)])
    rough = lambda x: (x.flatten(1).var(dim=1) - 0.04).relu()  # of noise: a gradient that is zero there too is none
    report = run(
        lambda x: Masked.apply(x) + rough(x), [suite(white, blind, queries=200), member("alone", init="clean")], ood
    )
    result, alone = report.results
    assert alone.attacked.auroc == alone.clean.auroc == 1
    assert result.attacked.auroc < 0.8
    assert result.indicators["black_box_auroc"] < result.indicators["white_box_auroc"] - 0.2


@pytest.fixture
def turns(monkeypatch):
    """(member, queries, numbers of the rows) of each search of a suite, in order."""
    seen = []

    def watched(setup, group, attacked):
        seen.append((group.threat.name, group.threat.queries, list(attacked.numbers)))
        return attack_ood(setup, group, attacked)

    monkeypatch.setattr(schedule, "attack_ood", watched)
    return seen


def test_every_member_and_the_second_turn_of_the_first_have_a_trial_each_on_other_rows(turns):
    ood = images(*[0.42 + 0.001 * i for i in range(40)])  # every row passes some of the ID rows and none passes all
    run(brightness, [suite(member("a"), member("b"), member("c"), queries=100)], ood)
    (a, _, rows), *trials = turns[:4]
    assert a == "a" and sorted(rows) == list(range(40))
    assert [(name, queries) for name, queries, _ in trials] == [("b", 10), ("c", 10), ("a", 20)]
    tried = [set(rows) for _, _, rows in trials]
    assert all(len(rows) == 10 for rows in tried)
    assert len(set.union(*tried)) == 30  # no row in two of them


def test_where_few_rows_are_open_none_pays_for_all_trials(turns):
    easy, hard = images(*[0.35] * 16), images(*[0.45 + 0.01 * i for i in range(4)])
    run(brightness, [suite(member("a"), member("b"), member("c"), queries=100)], torch.cat([easy, hard]))
    assert [len(rows) for _, _, rows in turns[:4]] == [20, 2, 2, 2]
    assert not set(turns[1][2]) & set(turns[2][2])


def test_what_a_turn_took_is_measured_by_what_there_was_to_take():
    ood = images(*[0.42 + 0.001 * i for i in range(40)])
    left = iter([0.8, 0.4, 0.1, 0.05])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "left_auroc", lambda _: next(left))
        patch.setattr(schedule, "attack_ood", lambda *_: {"d": SimpleNamespace(side=SimpleNamespace(queries=ten))})
        ten = torch.full((40,), 10)
        one = SimpleNamespace(
            name="near", sign=-1, x=ood, clean=torch.zeros(40), turns=0, best=SimpleNamespace(queries=ten),
            open_rows=lambda *_, **__: torch.arange(40), take=lambda *_: None, unspent=lambda: 100 - ten,
            passed=lambda: torch.zeros(40),
        )  # fmt: skip
        setup = SimpleNamespace(keeper=SimpleNamespace(room=torch.empty_like))
        a = member("a")
        spending = schedule.Spending(setup, suite(a), "d", [one], {a: None}, curve=[])
        early, late = (spending.take(a) for _ in range(2))
    assert early == late == schedule.Took(worth=0.5 / 400, finished=0)


def test_trials_are_of_two_rows_at_least_where_there_are_two(turns):
    easy, hard = images(*[0.35] * 16), images(*[0.45 + 0.01 * i for i in range(3)])
    run(brightness, [suite(member("a"), member("b"), member("c"), queries=100)], torch.cat([easy, hard]))
    assert [len(rows) for _, _, rows in turns[1:4]] == [3, 3, 3]


def test_the_second_turn_is_tried_at_its_length_even_where_the_first_moved_nothing(turns):
    far = images(*[0.9] * 8)  # no row can pass anything
    run(brightness, [suite(member("a"), member("b"), queries=100)], far)
    assert [(name, queries, len(rows)) for name, queries, rows in turns] == [("a", 10, 8), ("b", 10, 2), ("a", 20, 2)]


def test_what_a_trial_shows_decides_who_goes_on(turns):
    # the black box brings something in its trial, the score's second turn more
    ood = images(*[0.36 + 0.002 * i for i in range(40)])
    draws = member("draws", attack="random-search", queries=10)
    run(brightness, [suite(member("a", attack="random-search", queries=20), draws, queries=200)], ood)
    assert [name for name, _, _ in turns[:3]] == ["a", "draws", "a"]
    assert turns[3][0] == "a"


def test_a_member_alone_and_a_first_one_after_the_threshold_have_no_trial(turns):
    ood = images(*[0.42 + 0.001 * i for i in range(8)])
    run(brightness, [suite(member("a"), queries=30)], ood)
    assert [len(rows) for _, _, rows in turns] == [8, 8]
    turns.clear()
    near = member("fmn", attack="fmn", aim="cross", objective=None, init="clean", queries=10)
    run(brightness, [suite(near, member("a"), queries=60)], ood)
    assert [name for name, _, _ in turns[:2]] == ["fmn", "a"] and "fmn" not in [name for name, _, _ in turns[1:]]


def test_a_member_takes_its_share_of_what_each_row_has_left_in_one_search(turns, monkeypatch):
    def turn(self, member, **options):
        left = self.fronts[0].unspent().clone()
        turns.append(("turn", options.get("share", 0), left))
        return original(self, member, **options)

    original = schedule.Spending.take
    monkeypatch.setattr(schedule.Spending, "take", turn)
    ood = images(*[0.36 + 0.002 * i for i in range(40)])
    a, b = (member(name, attack="random-search", queries=10) for name in "ab")
    run(brightness, [suite(a, b, queries=155)], ood)
    shares, several = [], 0
    for i, (name, share, left) in enumerate(turns):
        if name != "turn" or not share:
            continue
        shares.append(share)
        searches = []
        for who, queries, rows in turns[i + 1 :]:
            if who == "turn":
                break
            searches.append(queries)
            wanted = [max(int(share * left[r]), 10) for r in rows]
            assert {n - n % 2 for n in wanted} == {queries}  # in steps of a quarter of its own ten
        assert searches == sorted(set(searches), reverse=True)  # each row once, the longest first
        several += len(searches) > 1
    assert several  # rows that were in a trial have less left


def test_members_share_what_is_left_as_they_were_worth_and_each_has_its_turn(monkeypatch):
    worth = iter([0.9, 0.3, 0.0, 0.1, 0.2, 0.0, 0.0, 0.0])
    taken = []

    def turn(self, member, *, share=0.0, **options):
        taken.append((member.name, share))
        return schedule.Took(next(worth))

    monkeypatch.setattr(schedule.Spending, "take", turn)
    run(brightness, [suite(*(member(name) for name in "abc"), queries=200)], images(*[0.4] * 8))
    assert taken[:4] == [("a", 0), ("b", 0), ("c", 0), ("a", 0)]  # the first turn and three trials
    assert taken[4:7] == [("b", pytest.approx(0.75)), ("a", 1), ("c", 1)]  # .3 and .1, then .1 alone, then what is left
    assert taken[7:] == [("b", 1)]  # another round: the others brought nothing in theirs


def test_while_turns_finish_rows_they_double_and_long_ones_come_where_they_do_not(monkeypatch):
    took = iter([(0.9, 0.5), (0.3, 0.5), (0.1, 0.0), (0.2, 0.5), (0.2, 0.05), (0.0, 0.0), (0.0, 0.0)])
    taken = []

    def turn(self, member, *, times=1, share=0.0, **options):
        taken.append((member.name, times, share))
        return schedule.Took(*next(took))

    monkeypatch.setattr(schedule.Spending, "take", turn)
    run(brightness, [suite(member("a"), member("b"), queries=200)], images(*[0.4] * 8))
    assert taken[3:] == [("b", 1, 0), ("b", 2, 0), ("b", 1, pytest.approx(2 / 3)), ("a", 1, 1)]


def test_what_a_turn_finished_are_the_rows_that_pass_everything_since(monkeypatch):
    took = []

    def turn(self, member, **options):
        before = int((self.fronts[0].passed() >= 1).sum())
        took.append(original(self, member, **options))
        seen.append((int((self.fronts[0].passed() >= 1).sum()) - before, 16 - before))
        return took[-1]

    seen, original = [], schedule.Spending.take
    monkeypatch.setattr(schedule.Spending, "take", turn)
    run(brightness, [suite(member("a"), queries=20)], images(*[0.2 + 0.02 * i for i in range(16)]))
    finished, had = seen[0]
    assert 0 < finished < had < 16
    assert took[0].finished == finished / had


def test_members_that_all_brought_nothing_share_alike(monkeypatch):
    taken = []

    def turn(self, member, *, share=0.0, **options):
        taken.append((member.name, share))
        return schedule.Took(0.0)

    monkeypatch.setattr(schedule.Spending, "take", turn)
    run(brightness, [suite(*(member(name) for name in "abc"), queries=200)], images(*[0.4] * 8))
    assert [share for _, share in taken[4:]] == [pytest.approx(1 / 3), 0.5, 1]
    assert {name for name, _ in taken[4:]} == set("abc")


@pytest.mark.parametrize(
    ("rows", "long", "expected"),
    [
        (400, (0.01, 0.02), [("a", 1, True), ("b", 1, True), ("b", 1, False), ("a", 1, False)]),
        (400, (0.02, 0.01), [("a", 1, True), ("b", 1, True), ("a", 1, False), ("b", 1, False)]),
        (400, (0.0, 0.0), [("a", 1, True), ("b", 1, True)]),  # and then c, the only one that was worth something
        (380, (), [("a", 0.67, False), ("b", 0.67, False)]),  # of so few rows none is spent on finding out
    ],
)
def test_of_many_rows_a_few_show_which_long_search_the_others_get(monkeypatch, rows, long, expected):
    took = iter([0.9, 0.1, 0.05, 0.3, *long, 0.2, 0.0, 0.0])  # a, trials of b, c and a, and what follows
    assert follows(monkeypatch, took, rows, expected) == expected


def test_a_member_that_is_far_ahead_is_not_compared(monkeypatch):
    expected = [("a", 0.8, False), ("b", 0.67, False)]  # .4 of .5
    assert follows(monkeypatch, iter([0.9, 0.0667, 0.0333, 0.4, 0.2, 0.0, 0.0]), 400, expected) == expected


def test_a_member_alone_is_not_compared_either(monkeypatch):
    assert follows(monkeypatch, iter([0.9, 0.1]), 400, [None] * 9, names="a", after=1) == [("a", 1, False)] * 2


def follows(monkeypatch, took, rows: int, expected: list, *, names: str = "abc", after: int = 4) -> list:
    """(member, share, trial) of what comes after the trials, c left out, shares to two digits."""
    taken = []

    def turn(self, member, *, share=0.0, trial=False, **options):
        taken.append((member.name, share, trial))
        return schedule.Took(next(took, 0.0))

    monkeypatch.setattr(schedule.Spending, "take", turn)
    run(brightness, [suite(*(member(name) for name in names), queries=200)], images(*[0.9] * rows))
    return [(name, round(share, 2), trial) for name, share, trial in taken[after:] if name != "c"][: len(expected)]


def test_trials_of_many_rows_are_no_larger_than_they_need_to_be(turns):
    run(brightness, [suite(member("a"), member("b"), queries=40)], images(*[0.9] * 400))  # none passes anything
    assert [len(rows) for _, _, rows in turns[:3]] == [400, 34, 34]  # every twelfth


def test_what_a_blind_first_member_takes_is_blind_in_its_trial_too(monkeypatch):
    took, ends = [], []

    def turn(self, member, **options):
        before, worth = self.curve[-1][1], original(self, member, **options)
        took.append((member.name, before - self.curve[-1][1]))
        return worth

    def scheduled(*args):
        ends.append(schedule.scheduled(*args))
        return ends[-1]

    original = schedule.Spending.take
    monkeypatch.setattr(schedule.Spending, "take", turn)
    monkeypatch.setattr("oodattack.evaluation.searches.scheduled", scheduled)
    ood = images(*[0.36 + 0.002 * i for i in range(40)])
    blind, white = member("blind", attack="random-search", queries=20), member("white", queries=2)
    run(brightness, [suite(blind, white, queries=100)], ood)
    later = [drop for name, drop in took[1:] if name == "blind"]
    assert took[2][0] == "blind" and later[0] > 0
    assert ends[0].found_blindly == pytest.approx(sum(later))


def test_how_far_the_first_and_the_last_turn_of_the_first_member_are_apart(monkeypatch):
    seen = {}

    def watched(setup, group, attacked):
        found = attack_ood(setup, group, attacked)
        if group.threat.name == "a":
            for row, score in zip(attacked.numbers, found["brightness"].side.scores.tolist(), strict=True):
                seen.setdefault(row, []).append(score)
        return found

    monkeypatch.setattr(schedule, "attack_ood", watched)
    ood = images(*[0.36 + 0.002 * i for i in range(40)])
    a, b = member("a", attack="random-search", queries=4), member("b", queries=12)  # b moves rows in between
    result = run(brightness, [suite(a, b, queries=100)], ood).results[0]
    clean = brightness(images(*[0.3 + 0.01 * i for i in range(8)]))
    first, last = (torch.tensor([seen[row][at] for row in range(40)]) for at in (0, -1))
    assert any(len(scores) > 1 for scores in seen.values())
    expected = abs(auroc(clean, first) - auroc(clean, last))
    assert expected > 0.001
    assert result.indicators["restart_spread"] == pytest.approx(expected)


def test_a_member_that_no_row_had_twice_has_no_spread():
    result = run(brightness, [suite(member("a"), member("b"), queries=15)], images(*[0.45] * 4)).results[0]
    assert result.indicators["restart_spread"] is None
