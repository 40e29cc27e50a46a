"""The classes whose logits come furthest within the limits, against closed forms."""

import pytest
import torch
from torch import nn

from oodattack.attack import maximise
from oodattack.classifier import Classifier
from oodattack.detectors import Energy
from oodattack.evaluation import evaluate, search
from oodattack.evaluation.class_reach import classes_to_raise
from oodattack.threat import ThreatModel

FIELDS = dict(
    name="t", norm="linf", eps=0.1, aim="hide", objective="class-logits", start="ood", init="ball", attack="apgd",
    queries=60, restarts=3, iterate="best", source="test",
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


def test_the_order_is_that_of_what_the_logits_can_be_raised_to():
    head, x = linear(10)
    with torch.no_grad():
        expected = furthest(head, x, 0.1).argsort(dim=1, descending=True)[:, :3]
        f = head(x.flatten(1))
        without_walls = (f + 0.1 * head.weight.abs().sum(dim=1)).argsort(dim=1, descending=True)[:, :3]
    classes, spent = classes_to_raise(lambda z: head(z.flatten(1)), x, threat(), least=3)
    assert torch.equal(classes, expected)
    for other in (f.argsort(dim=1, descending=True)[:, :3], without_walls):
        assert not torch.equal(expected, other)  # else there is nothing to see
    assert spent == 10


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


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l2", 2.0), ("l1", 2.0), ("l1", 12.0)])
@pytest.mark.parametrize("seed", range(3))
def test_in_every_ball_the_walls_of_the_box_count(norm, eps, seed):
    weight, x = sparse(seed)
    logits = lambda z: (z[:, None] * weight).flatten(2).sum(2)
    raised = logits(x).double() + along(weight, x, eps, norm)
    classes, _ = classes_to_raise(logits, x, threat(norm=norm, eps=eps), least=3)
    assert torch.equal(classes, raised.argsort(dim=1, descending=True)[:, :3])


@pytest.mark.parametrize(("norm", "eps", "order"), [("l2", 0.01, 2), ("l1", 0.01, float("inf"))])
def test_in_other_balls_the_dual_norm_of_the_gradient_counts(norm, eps, order):
    head, x = linear(10)
    head.weight.data *= 100
    x = 0.3 + 0.4 * x  # no wall within eps
    with torch.no_grad():
        reach = head(x.flatten(1)) + eps * torch.linalg.vector_norm(head.weight, order, dim=1)
    classes, _ = classes_to_raise(lambda z: head(z.flatten(1)), x, threat(norm=norm, eps=eps), least=3)
    assert torch.equal(classes, reach.argsort(dim=1, descending=True)[:, :3])


def test_a_patch_moves_its_own_pixels_only():
    weight = torch.zeros(3, 1, 4, 4)
    weight[0, 0, 0, 0] = 5.0  # a corner
    weight[1, 0, 1:3, 1:3] = 2.0  # the window of side 2
    logits = lambda z: (z[:, None] * weight).flatten(2).sum(dim=2)
    limits = threat(norm="patch", eps=2, restarts=1, attack="pgd", step_size=0.1)
    assert classes_to_raise(logits, torch.zeros(1, 1, 4, 4), limits, least=3) == (torch.tensor([[1]]), 3)


def test_where_there_are_many_classes_only_the_likeliest_are_compared():
    head, x = linear(50)
    classes, spent = classes_to_raise(lambda z: head(z.flatten(1)), x, threat(queries=40), least=3)
    likeliest = head(x.flatten(1)).argsort(dim=1, descending=True)[:, :10]
    assert spent == 10
    assert (classes[:, :, None] == likeliest[:, None]).any(dim=2).all()


@pytest.mark.parametrize(
    ("k", "fields"), [(10, {"attack": "square"}), (10, {"queries": 11}), (3, {}), (2, {"restarts": 3})]
)
def test_the_likeliest_are_taken_at_no_cost_where_there_is_nothing_to_choose_or_nothing_to_choose_by(k, fields):
    head, x = linear(k)
    classes, spent = classes_to_raise(lambda z: head(z.flatten(1)), x, threat(**fields), least=3)
    assert torch.equal(classes, head(x.flatten(1)).argsort(dim=1, descending=True)[:, :3])
    assert spent == 0


def test_a_logit_without_a_number_or_a_gradient_comes_last():
    def logits(z):
        mean = z.flatten(1).mean(dim=1)
        root = (mean - mean.detach()).sqrt()  # 0, and its gradient is not finite
        return torch.stack([mean * float("nan"), root + 9, mean, mean * 20, torch.full_like(mean, 0.7)], dim=1)

    x = torch.full((2, *SHAPE), 0.5)
    classes, spent = classes_to_raise(logits, x, threat(restarts=4), least=3)
    assert spent == 5
    assert classes[0].tolist() == [3, 1, 4, 2] or classes[0].tolist() == [3, 1, 2, 4]
    assert not (classes == 0).any()


def test_a_search_raises_the_class_that_moves_and_pays_for_the_choice(monkeypatch):
    searches = []

    def spy(loss, x, threat, *args, **options):
        found = maximise(loss, x, threat, *args, **options)
        searches.append((threat.queries, threat.restarts, found.queries))
        return found

    monkeypatch.setattr(search, "maximise", spy)
    head = nn.Linear(18, 3)  # two likely classes that nothing moves, and one that is unlikely and steep
    head.weight.data = torch.tensor([1e-3, 1e-3, 40.0])[:, None].expand(3, 18) / 18
    head.bias.data = torch.tensor([1.0, 0.9, -20.0])
    energy = Energy(Classifier(nn.Sequential(nn.Flatten(), head).eval()))
    generator = torch.Generator().manual_seed(0)
    ood, id = (0.4 + 0.05 * torch.rand(12, *SHAPE, generator=generator) + shift for shift in (0, 0.15))
    limits = threat(restarts=1, queries=12, eps=0.15)
    result = evaluate(energy, id=id, ood={"o": ood}, threats=[limits], seed=0).results[0]
    assert result.clean.auroc == 1
    assert result.attacked.auroc < 0.9
    ((queries, restarts, spent),) = searches
    assert (queries, restarts) == (12 - 3, 1)
    assert result.queries == spent.double().mean() + 3
