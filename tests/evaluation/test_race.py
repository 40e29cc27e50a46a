"""The classes whose logits come furthest within the limits, against closed forms."""

import pytest
import torch
from torch import nn

from oodattack.attack import maximise
from oodattack.classifier import Classifier
from oodattack.detectors import Energy
from oodattack.evaluation import evaluate, part
from oodattack.evaluation.goal import Goal, Objective, home_of
from oodattack.evaluation.race import FEWEST_POINTS, MOST_POINTS, points_of_each, race
from oodattack.geometry import row_random
from oodattack.loss import Judged
from oodattack.threat import ThreatModel

FIELDS = dict(
    name="t", norm="linf", eps=0.1, aim="hide", objective="class-logits", start="ood", init="ball", attack="apgd",
    queries=100, restarts=3, iterate="best", source="test",
)  # fmt: skip
SHAPE = (2, 3, 3)


def threat(**fields) -> ThreatModel:
    return ThreatModel(**(FIELDS | fields))


def linear(k: int, seed: int = 0) -> tuple[nn.Linear, torch.Tensor]:
    """k logits that are linear in x, of very different slopes, and images of which half the pixels are at a wall."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(18, k)
    head.weight.data = torch.randn(k, 18, generator=generator) * torch.logspace(-2, 1, k)[:, None]
    head.bias.data = torch.randn(k, generator=generator)
    x = torch.rand(7, *SHAPE, generator=generator)
    return head, x.where(x > 0.5, 0)  # half of the pixels can go one way only


def furthest(head: nn.Linear, x: torch.Tensor, eps: float) -> torch.Tensor:
    """max over the ball of linf and the box of each logit, in closed form, shape (B, K)."""
    rows, w = x.flatten(1)[:, None], head.weight
    room = torch.where(w > 0, 1 - rows, rows).clamp(max=eps)
    return head(x.flatten(1)) + (w.abs() * room).sum(dim=2)


def raced(logits, x: torch.Tensor, limits: ThreatModel, *, classes: int, points: int = FEWEST_POINTS) -> torch.Tensor:
    """The classes that win, shape (B, restarts)."""
    losses = [lambda z, _rows, k=k: logits(z)[:, k] for k in range(classes)]
    random = row_random(0, "test", range(len(x)), x.device, x.dtype)
    return race(losses, points, x, limits, random, lambda _: None).places.T


def test_the_order_is_that_of_what_the_logits_can_be_raised_to():
    head, x = linear(10)
    with torch.no_grad():
        expected = furthest(head, x, 0.1).argsort(dim=1, descending=True)[:, :3]
        f = head(x.flatten(1))
        without_walls = (f + 0.1 * head.weight.abs().sum(dim=1)).argsort(dim=1, descending=True)[:, :3]
    assert torch.equal(raced(lambda z: head(z.flatten(1)), x, threat(), classes=10), expected)
    for other in (f.argsort(dim=1, descending=True)[:, :3], without_walls):
        assert not torch.equal(expected, other)  # else there is nothing to see


def sparse(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of ten classes, the first of one pixel in a hundred and the last of all; images half at a wall."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.logspace(-2, 0, 10)[:, None, None, None]
    weight = torch.randn(10, 3, 16, 16, generator=generator) * (torch.rand(10, 3, 16, 16, generator=generator) < share)
    weight *= (1 + torch.rand(10, 1, 1, 1, generator=generator)) / weight.flatten(1).norm(dim=1)[:, None, None, None]
    x = torch.rand(20, 3, 16, 16, generator=generator)
    return weight, x.where(x > 0.5, 0)


def along(weight: torch.Tensor, x: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """max <w, delta> over ball and box for l1 and l2, shapes (K, ...) and (B, ...): (B, K)."""
    rows, w = x.double().flatten(1)[:, None], weight.double().flatten(1)[None]
    wall = torch.where(w > 0, 1 - rows, rows)
    if norm == "l1":  # the steepest pixels to their walls, one after the other, until eps is spent
        order = w.abs().argsort(dim=2, descending=True).expand_as(wall)
        room = wall.gather(2, order)
        room = torch.minimum(room, (eps - (room.cumsum(2) - room)).clamp(min=0))
        return (w.abs().expand_as(wall).gather(2, order) * room).sum(2)
    # l2: delta = min(m |w|, wall) with m such that its length is eps
    low, high = torch.zeros(*wall.shape[:2], 1).double(), torch.full((*wall.shape[:2], 1), 1e6).double()
    for _ in range(200):
        middle = (low + high) / 2
        inside = (w.abs() * middle).minimum(wall).norm(dim=2, keepdim=True) <= eps
        low, high = middle.where(inside, low), high.where(inside, middle)
    return (w.abs() * (w.abs() * low).minimum(wall)).sum(2)


@pytest.mark.parametrize(
    ("norm", "eps", "within"), [("l2", 0.5, 0.05), ("l2", 2.0, 0.08), ("l1", 2.0, 0.02), ("l1", 12.0, 0.15)]
)
@pytest.mark.parametrize("seed", range(3))
def test_in_every_ball_the_walls_of_the_box_count(norm, eps, within, seed):
    weight, x = sparse(seed)
    logits = lambda z: (z[:, None] * weight).flatten(2).sum(2)
    moved = along(weight, x, eps, norm)
    reach = logits(x).double() + moved
    won = raced(logits, x, threat(norm=norm, eps=eps), classes=10, points=MOST_POINTS)
    lost = reach.topk(3, dim=1).values - reach.gather(1, won)
    assert (lost <= within * moved.amax(dim=1, keepdim=True)).all()  # so near to the furthest point a few steps end


def test_a_patch_moves_its_own_pixels_only():
    weight = torch.zeros(3, 1, 4, 4)
    weight[0, 0, 0, 0] = 5.0  # a corner
    weight[1, 0, 1:3, 1:3] = 2.0  # the window of side 2
    logits = lambda z: (z[:, None] * weight).flatten(2).sum(dim=2)
    limits = threat(norm="patch", eps=2, restarts=1, attack="pgd", step_size=0.1)
    assert raced(logits, torch.zeros(1, 1, 4, 4), limits, classes=3).tolist() == [[1]]


def test_what_a_few_steps_reach_counts_and_not_the_slope_at_the_start():
    # two classes that are equal at x: one is steep and flat soon, the other's slope grows
    def logits(z):
        m = z.flatten(1).mean(dim=1) - 0.5
        return torch.stack([(20 * m).tanh() / 10, m + 20 * m.relu() ** 2], dim=1)

    x = torch.full((3, *SHAPE), 0.5)
    assert raced(logits, x, threat(restarts=1, init="clean"), classes=2).tolist() == [[1]] * 3


def test_a_logit_without_a_number_comes_last():
    def logits(z):
        mean = z.flatten(1).mean(dim=1)
        return torch.stack([mean * float("nan"), mean, mean * 20, torch.full_like(mean, 0.3) + 0 * mean], dim=1)

    x = torch.full((2, *SHAPE), 0.5)
    assert raced(logits, x, threat(), classes=4).tolist() == [[2, 1, 3]] * 2


@pytest.mark.parametrize(
    ("fields", "classes", "expected"),
    [
        ({}, 10, (10, 3)),  # a third of 100 queries
        ({"queries": 150}, 10, (10, 5)),
        ({"queries": 1000}, 10, (10, MOST_POINTS)),
        ({"queries": 1000}, 1000, (111, FEWEST_POINTS)),  # the likeliest
        ({"queries": 60}, 10, (6, FEWEST_POINTS)),
        ({"queries": 1000, "draws": 10}, 10, (10, 3)),
        ({"queries": 27}, 10, (0, 0)),  # three are followed anyway
        ({}, 3, (0, 0)),
        ({"restarts": 1}, 2, (2, MOST_POINTS)),
        ({"attack": "square"}, 10, (0, 0)),
        ({"attack": "stadv", "limit": 0.5}, 10, (0, 0)),
    ],
)
def test_a_third_of_the_queries_pays_for_the_race(fields, classes, expected):
    limits = threat(**fields)
    racing, points = points_of_each(limits, classes)
    assert (racing, points) == expected
    assert 3 * racing * points * (limits.draws or 1) <= limits.queries


@pytest.mark.parametrize(("draws", "spent"), [(None, 9), (3, 27)])
def test_a_search_raises_the_class_that_moves_and_pays_for_the_race(monkeypatch, draws, spent):
    searches = []

    def spy(loss, x, threat, *args, **options):
        found = maximise(loss, x, threat, *args, **options)
        searches.append((threat.queries, threat.restarts, found.queries))
        return found

    monkeypatch.setattr(part, "maximise", spy)
    head = nn.Linear(18, 3)  # two likely classes that nothing moves, and one that is unlikely and steep
    head.weight.data = torch.tensor([1e-3, 1e-3, 40.0])[:, None].expand(3, 18) / 18
    head.bias.data = torch.tensor([1.0, 0.9, -20.0])
    energy = Energy(Classifier(nn.Sequential(nn.Flatten(), head).eval()))
    generator = torch.Generator().manual_seed(0)
    ood, id = (0.4 + 0.05 * torch.rand(12, *SHAPE, generator=generator) + shift for shift in (0, 0.15))
    limits = threat(restarts=1, queries=30 * (draws or 1), eps=0.15, draws=draws)
    result = evaluate(energy, id=id, ood={"o": ood}, threats=[limits], seed=0).results[0]
    assert result.clean.auroc == 1
    assert result.attacked.auroc < 0.9
    ((queries, restarts, own),) = searches
    assert (queries, restarts) == (limits.queries - spent, 1)
    assert result.queries == own.double().mean() + spent


def test_each_row_follows_a_class_of_its_own():
    weight = torch.zeros(4, 1, 2, 2)
    weight[0, 0, 0, 0] = weight[1, 0, 1, 1] = 20.0
    weight[2:] = 0.01
    logits = lambda z: (z[:, None] * weight).flatten(2).sum(2)
    x = torch.tensor([[0.9, 0.5, 0.5, 0.2], [0.2, 0.5, 0.5, 0.9]]).view(2, 1, 2, 2)
    assert raced(logits, x, threat(restarts=1), classes=4).tolist() == [[0], [1]]


class Wells(nn.Module):
    """Six classes, one pixel each: the same on a plateau of bright pixels, and more where a pixel is black."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = x.flatten(1)[:, :6]
        return torch.where(p > 0.4, 5 + 0.01 * p, 40 * (0.25 - p).relu())


def test_rows_whose_likeliest_classes_differ_each_follow_the_one_that_moves():
    free = torch.tensor([[0], [3], [5], [1]])
    ood = torch.stack([torch.linspace(0.6, 0.7, 18).roll(row) for row in range(4)])  # plateaus, in another order each
    ood.scatter_(1, free, 0.2)  # unlikely, and the only one that can be raised by more than .001
    ood[1, 0] = ood[2, :2] = 0.32  # less likely still: the one that moves is not at the same place in every row
    shown, id = [], torch.zeros(6, *SHAPE)
    net = Wells().eval()
    score = lambda z: -net(z).logsumexp(dim=1)
    score.class_scores = net
    limits = threat(restarts=1, init="clean")
    evaluate(score, id=id, ood={"o": ood.view(4, *SHAPE)}, threats=[limits], seed=0, watch=shown.append)
    assert (net(shown[0].start).argmax(dim=1) != free[:, 0]).all()
    assert (net(shown[0].x_adv).argmax(dim=1) == free[:, 0]).all()


def test_rows_that_the_first_class_finishes_leave_the_second_to_the_others(monkeypatch):
    calls = []

    def spy(loss, x, threat, *args, **options):
        found = maximise(loss, x, threat, *args, **options)
        calls.append(found)
        return found

    monkeypatch.setattr(part, "maximise", spy)
    # class k is raised by pixel k; class 0 goes furthest where there is room, and past the ID images
    weight = torch.zeros(4, 18)
    weight[0, 0], weight[1, 1], weight[2, 2] = 40.0, 36.0, 36.0
    logits = lambda z: z.flatten(1) @ weight.to(z).T
    score = lambda z: -logits(z).amax(dim=1)
    score.class_scores = logits
    ood = torch.full((4, 18), 0.5)
    ood[0, 0] = ood[2, 0] = 0.2  # .6 is reached, 24
    ood[0, 1] = ood[1, 2] = ood[2, 2] = 0.52  # .92, 33.1, before the other's .9
    id = torch.zeros(5, 18)
    id[:, 0] = 0.85  # 34: rows 1 and 3 get to 36
    limits = threat(restarts=2, eps=0.4, init="clean")
    evaluate(score, id=id.view(5, *SHAPE), ood={"o": ood.view(4, *SHAPE)}, threats=[limits], seed=0)
    first, second = (found.x_adv.flatten(1) for found in calls)
    assert first[0, 1] > 0.91 and first[2, 2] > 0.91 and first[[1, 3], 0].min() > 0.85
    assert len(second) == 2
    assert second[0, 2] > 0.89 and second[1, 1] > 0.89  # rows 0 and 2, each its own second


def test_a_class_without_a_number_is_never_among_the_likeliest():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = linear(10)[0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1))

        def class_scores(self, x: torch.Tensor) -> torch.Tensor:
            f = self.forward(x)
            return torch.cat([f, torch.full_like(f[:, :6], float("nan"))], dim=1)

    broken, x = Broken().eval(), linear(10)[1]
    score = lambda z: -broken(z).amax(dim=1)
    score.class_scores = broken.class_scores
    sound = lambda z: -broken(z).amax(dim=1)
    sound.class_scores = broken.forward
    for fields in ({"attack": "square"}, {"queries": 8}, {"queries": 60}):
        limits = threat(restarts=1, **fields)
        report = evaluate({"broken": score, "sound": sound}, id=x, ood={"o": x * 0.9}, threats=[limits], seed=0)
        one, other = (result.attacked.auroc for result in report.results)
        assert one == other


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(3), "got Tensor"),
        (lambda x: x.flatten(1).mean(1), r"got shape \(2,\) for 2 images"),
        (lambda x: x.flatten(1)[:1], r"got shape \(1, 18\)"),
        (lambda x: x.flatten(1)[:, :0], r"got shape \(2, 0\)"),
        (lambda x: x.flatten(1).long(), "got torch.int64"),
        (lambda x: x.flatten(1).tolist(), "got list"),
    ],
)
@pytest.mark.parametrize("attack", ["apgd", "square"])
def test_class_scores_that_are_none_are_refused_in_one_line(given, words, attack):
    score = lambda z: z.flatten(1).mean(1)
    score.class_scores = given
    x = linear(3)[1]
    with pytest.raises(ValueError, match=f"`class_scores` must be a function of images .* {words}"):
        evaluate(score, id=x, ood={"o": x * 0.9}, threats=[threat(attack=attack)], seed=0)


def test_where_class_scores_have_no_gradient_logits_are_followed():
    energy = Energy(Classifier(nn.Sequential(nn.Flatten(), linear(4)[0]).eval()))
    plain = Energy(energy.net)
    energy.class_scores = lambda x: energy.net.logits(x).detach()
    x = linear(4)[1]
    report = evaluate({"cut": energy, "plain": plain}, id=x, ood={"o": x * 0.9}, threats=[threat()], seed=0)
    one, other = report.results
    assert one.attacked.auroc == other.attacked.auroc < one.clean.auroc


def test_what_a_race_asked_is_counted():
    losses = [lambda z, _rows, k=k: z.flatten(1)[:, k] * (float("nan") if k == 1 else k) for k in range(3)]
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    random = row_random(0, "test", range(4), x.device, x.dtype)
    counts = race(losses, 5, x, threat(), random, lambda _: None).counts
    # three losses of five points, the last of which needs no gradient; of one slope and of what is no number nothing is
    # left to follow
    expected = {"queries": 15, "gradients": 12, "zero_gradients": 8, "non_finite": 5}
    assert {name: count.unique().tolist() for name, count in counts.items()} == {k: [v] for k, v in expected.items()}


def test_the_class_in_which_most_of_the_best_images_are_is_followed_too():
    logits = torch.eye(4)[torch.arange(40) % 4]  # classes 0, 1, 2, 3, 0, ...
    worth = torch.zeros(40)
    worth[[2, 6, 10]], worth[[3, 5]] = 1.0, 0.5  # the best four: three of class 2, one of class 1 or 3
    assert home_of(logits, worth=worth) == 2
    worth[[10, 3, 5]] = torch.tensor([0.0, 0.5, 0.5])  # two of class 2, one of 3 and one of 1
    assert home_of(logits, worth=worth) is None


@pytest.mark.parametrize(
    ("restarts", "home", "expected"), [(2, 0, (3, 0)), (2, 3, (3, 2)), (1, 0, (3,)), (2, None, (3, 2))]
)
def test_the_last_of_several_classes_is_the_one_where_images_are_hard_to_pass(restarts, home, expected):
    x, followed = torch.full((5, *SHAPE), 0.5), []
    losses = [lambda z, _rows, k=k: k * z.flatten(1).mean(dim=1) for k in range(4)]  # the last comes furthest

    def own(which):
        followed.append(which)
        return lambda z, rows: which[rows] * z.flatten(1).mean(dim=1)

    limits = threat(restarts=restarts)
    at_home = None if home is None else torch.full((5,), home)
    asked = Objective(losses, torch.full((5,), 1e9), own=own, home=at_home)
    part.Part(asked, limits, Goal(-1), x, row_random(0, "t", range(5), "cpu", x.dtype), "full", lambda _: None).search()
    assert [which.unique().tolist() for which in followed] == [[k] for k in expected]


def test_a_race_is_won_by_what_is_followed_whatever_points_are_worth():
    x, followed = torch.full((5, *SHAPE), 0.5), []

    def judged(k):
        return lambda z, _rows: Judged(k * z.flatten(1).mean(dim=1), -k * z.flatten(1).mean(dim=1))

    def own(which):
        followed.append(which.unique().tolist())
        return judged(3)

    asked = Objective([judged(k) for k in range(4)], torch.full((5,), 1e9), own=own, judged=True)
    random = row_random(0, "t", range(5), "cpu", x.dtype)
    part.Part(asked, threat(restarts=1), Goal(-1), x, random, "full", lambda _: None).search()
    assert followed == [[3]]


def test_a_class_without_a_number_is_told():
    head, x = linear(3)
    energy = Energy(Classifier(nn.Sequential(nn.Flatten(), head).eval()))
    energy.class_scores = lambda z: torch.cat([energy.net.logits(z), z.flatten(1)[:, :1] * float("nan")], dim=1)
    result = evaluate(energy, id=x, ood={"o": x * 0.9}, threats=[threat()], seed=0).results[0]
    assert result.indicators["non_finite_share"] > 0


def test_a_detector_that_compares_classes_itself_has_its_own_raised():
    class Nearest(nn.Module):
        """Distance to the nearest of three points, of which the two that are nearer at first cannot be reached."""

        def __init__(self) -> None:
            super().__init__()
            self.asked = 0

        def class_scores(self, x: torch.Tensor) -> torch.Tensor:
            self.asked += 1
            m = x.flatten(1).mean(dim=1)
            return torch.stack([-1 + 0.01 * m, -1.1 + 0.01 * m, -(m - 0.5).abs() * 8], dim=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            m = x.flatten(1).mean(dim=1)
            return torch.minimum(1 - 0.01 * m, (m - 0.5).abs() * 8)

    detector = Nearest().eval()
    generator = torch.Generator().manual_seed(0)
    ood, id = (centre + 0.02 * torch.rand(12, *SHAPE, generator=generator) for centre in (0.2, 0.5))
    result = evaluate(detector, id=id, ood={"o": ood}, threats=[threat(restarts=1, eps=0.35)], seed=0).results[0]
    assert detector.asked > 12
    assert result.clean.auroc == 1
    assert result.attacked.auroc < 0.5
