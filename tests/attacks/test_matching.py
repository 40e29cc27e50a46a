"""The matching solver against closed forms, and against Algorithm 1 on a small random network."""

import pytest
import torch
from torch import Tensor, nn

from oodattack.aims import close_enough, mape, match
from oodattack.attack import STOPPED, maximise
from oodattack.attacks.adamax import adamax
from oodattack.attacks.lbfgs import lbfgs
from oodattack.attacks.matching_cone import tangent_cone
from oodattack.attacks.matching_curvature import quasi_newton
from oodattack.geometry import norm_of, row_random
from oodattack.threat import read_threat

D, K = 48, 5  # pixels of a 3 x 4 x 4 input, numbers of a latent


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(loss, x: Tensor, attack, *, eps: float, queries: int, norm: str = "l2", enough=None, rows=None):
    changes = {"eps": eps, "queries": queries, "norm": norm, "init": "clean"}
    threat = read_threat("liang-latent").model_copy(update=changes)
    random = row_random(0, "t", range(len(x)) if rows is None else rows, "cpu", x.dtype)
    return maximise(loss, x, threat, attack, random, keep_clean=False, enough=enough)


def linear(seed: int = 0):
    encode = draw(D, K, seed=seed)
    return encode, lambda x: x.flatten(1) @ encode


def greys(n: int) -> Tensor:
    return 0.5 + 0.01 * draw(n, 3, 4, 4, seed=9)


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU()
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().requires_grad_(False)


def test_linear_target_within_reach():
    _, f = linear()
    x = greys(4)
    z = f(x + 0.02 * draw(4, 3, 4, 4, seed=1))
    found = run(match(f, z), x, lbfgs(), eps=1.0, queries=30)
    assert (mape(z, f(found.x_adv)) < 1e-6).all()


def test_linear_target_out_of_reach_is_met_as_nearly_as_the_ball_allows():
    # min ||A'd - r|| over ||d|| <= eps: d = A (A'A + mu)^-1 r, with mu such that ||d|| = eps
    encode, f = linear()
    x, eps = greys(4), 0.2
    r = 10 * draw(4, K, seed=1)
    values, basis = torch.linalg.eigh(encode.mT @ encode)
    spread = r @ basis
    low, high = torch.zeros(4, dtype=torch.float64), torch.full((4,), 1e6, dtype=torch.float64)
    for _ in range(200):
        mu = (low + high) / 2
        length = (values * (spread / (values + mu[:, None])).square()).sum(1).sqrt()
        low, high = torch.where(length > eps, mu, low), torch.where(length > eps, high, mu)
    best = (mu[:, None] * spread / (values + mu[:, None])).norm(dim=1)
    found = run(match(f, f(x) + r), x, lbfgs(), eps=eps, queries=400)
    left = (-found.value).sqrt()
    assert (left >= best * (1 - 1e-6)).all() and (left <= 1.01 * best).all()
    assert {STOPPED[i] for i in found.stopped.tolist()} == {"ball binds"}
    torch.testing.assert_close(norm_of(found.x_adv - x, "l2"), torch.full((4,), eps, dtype=torch.float64))


def test_ill_conditioned_quadratic():
    # curvatures 1 .. 1e4: steepest descent would shrink the slow direction by 1 - 1e-4 a step
    x = greys(3)
    scale = torch.logspace(0, 2, D, dtype=torch.float64)
    goal = x + 0.05 * draw(3, 3, 4, 4, seed=2)
    loss = lambda v, rows: -(scale * (v - goal[rows]).flatten(1)).square().sum(1)
    found = run(loss, x, lbfgs(), eps=2.0, queries=150)
    assert (found.value > -1e-3).all()  # from about -200; the slow directions alone hold 0.03


def test_gradient_that_vanishes_inside_is_called_stationary():
    x = greys(2)
    loss = lambda v, rows: -1 - (v - 0.5).flatten(1).square().sum(1)
    found = run(loss, x, lbfgs(), eps=1.0, queries=300)
    assert [STOPPED[i] for i in found.stopped.tolist()] == ["stationary"] * 2
    assert (found.queries < 100).all()


def test_kink_is_called_step_too_small():
    # 1 + sum |v - 0.5|: the gradient never shrinks, and nothing is better than the kink
    x = greys(2)
    loss = lambda v, rows: -1 - (v - 0.5).abs().flatten(1).sum(1)
    found = run(loss, x, lbfgs(), eps=1.0, queries=1500)
    assert [STOPPED[i] for i in found.stopped.tolist()] == ["step too small"] * 2
    assert (found.value > -1.02).all()


@pytest.mark.parametrize("norm, eps", [("linf", 0.05), ("l2", 0.1), ("l1", 0.5)])
def test_budget_and_ball_and_box(norm, eps):
    _, f = linear()
    x = torch.rand(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).round(decimals=1)
    z = f(x) + 3 * draw(4, K, seed=1)
    calls = 0

    def counted(v: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return match(f, z)(v, rows)

    found = run(counted, x, lbfgs(patience=100), eps=eps, queries=60, norm=norm)
    assert calls == found.queries.max() <= 60
    assert (norm_of(found.x_adv - x, norm) <= eps * (1 + 1e-6)).all()
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1
    assert (found.value > match(f, z)(x, torch.arange(4))).all()


@pytest.mark.parametrize("norm, eps", [("linf", 0.05), ("l1", 0.5)])
def test_other_balls_are_searched_as_well_as_by_adamax(norm, eps):
    _, f = linear()
    x = greys(4)
    z = f(x) + 8 * draw(4, K, seed=1)
    ours, theirs = (
        run(match(f, z), x, attack, eps=eps, queries=200, norm=norm) for attack in (lbfgs(), adamax(step_size=0.01))
    )
    assert (ours.value >= theirs.value * 1.001).all()  # values are negative: at most a thousandth more loss


def test_rows_do_not_influence_one_another():
    f, x = small_network(), torch.rand(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = f(x.flip(0) * 0.9)
    together = run(match(f, z), x, lbfgs(), eps=0.5, queries=60)
    for row in range(4):
        alone = run(match(f, z[row : row + 1]), x[row : row + 1], lbfgs(), eps=0.5, queries=60, rows=[row])
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[row], rtol=0, atol=1e-6)


def test_rows_that_match_leave():
    _, f = linear()
    x = greys(2)
    z = torch.stack([f(x)[0] + 0.1, f(x)[1] + 100])  # within reach, and far out of it
    found = run(match(f, z), x, lbfgs(), eps=0.5, queries=100, enough=close_enough(z))
    assert STOPPED[found.stopped[0]] == "target reached"
    assert found.queries[0] < 20 < found.queries[1]


def test_beats_algorithm_1_at_equal_queries():
    f, random = small_network(), torch.Generator().manual_seed(5)
    x = torch.rand(8, 3, 12, 12, dtype=torch.float64, generator=random)
    z = f(torch.nn.functional.avg_pool2d(torch.rand(8, 3, 24, 24, dtype=torch.float64, generator=random), 2))
    left = {
        name: mape(z, f(run(match(f, z), x, attack, eps=2.0, queries=80).x_adv)).median()
        for name, attack in {"adamax": adamax(step_size=0.01), "lbfgs": lbfgs()}.items()
    }
    assert left["lbfgs"] < left["adamax"] / 10


def test_secant_equation():
    # whatever the older pairs and the stretch: H y = s for the newest pair
    s, curvature = draw(3, 4, D), draw(D, D, seed=1)
    y = s @ (curvature @ curvature.mT / D + 0.1 * torch.eye(D, dtype=torch.float64))
    known = torch.tensor([[True] * 4, [False, False, True, True], [True, False, True, True]])
    moved, use = quasi_newton(y[:, -1], s, y, known, stretch=3.0)
    torch.testing.assert_close(moved, s[:, -1])
    assert use.all()


def test_no_pair_is_steepest_descent():
    down = draw(2, D)
    s = draw(2, 3, D, seed=1)
    moved, use = quasi_newton(down, s, -s, torch.ones(2, 3, dtype=torch.bool), stretch=3.0)  # negative curvature
    torch.testing.assert_close(moved, down)
    assert not use.any()


def test_tangent_cone_by_hand():
    # pixels: at the wall 0 and pushed out; free; free. Ball of radius 0.5 around (0, 0.5, 0.5), point on it
    x = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    point = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64) - torch.tensor([[0.0, 1e-9, 0.0]])
    grad = torch.tensor([[1.0, -3.0, 2.0]], dtype=torch.float64)
    cone = tangent_cone(point, x, grad, eps=0.5, norm="l2")
    torch.testing.assert_close(cone.down, torch.tensor([[0.0, 0.0, -2.0]], dtype=torch.float64), atol=1e-6, rtol=0)
    assert cone.pull.item() == pytest.approx(6, rel=1e-6)  # grad + pull * delta = 0 on the second pixel, delta = 0.5
    inside = tangent_cone(point, x, -grad, eps=0.5, norm="l2")  # now the ball is left inwards and pixel 0 comes free
    torch.testing.assert_close(inside.down, grad)


@pytest.mark.parametrize("bad", [{"memory": 0}, {"stretch": 0.5}, {"patience": 0}])
def test_arguments_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must be >= 1"):
        lbfgs(**bad)
