"""Searches that see values only: how near they come to a known optimum, and what each proposal looks like."""

import pytest
import torch
from torch import Tensor

from oodattack.attack import Attack, Seen, maximise
from oodattack.attacks.nes import nes
from oodattack.attacks.random_search import random_search
from oodattack.attacks.spsa import spsa
from oodattack.attacks.square import halvings, square
from oodattack.geometry import norm_of, row_random
from oodattack.threat import ThreatModel

NAMES = {"square": square, "nes": nes, "spsa": spsa}
# share of the optimum of a linear score of 64 pixels after 600 queries. The weights are noise, which suits estimated
# gradients; windows are never less than 3 pixels wide in l2 and l1, so square cannot pick the pixels one by one there.
REACH = {
    "square": {"linf": 0.99, "l2": 0.6, "l1": 0.4},
    "nes": {"linf": 0.8, "l2": 0.9, "l1": 0.35},
    "spsa": {"linf": 0.7, "l2": 0.9, "l1": 0.35},
}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
EPS = {"linf": 0.1, "l2": 0.4, "l1": 0.4}
WEIGHT = torch.randn(1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def lift(x: Tensor, _rows: Tensor) -> Tensor:
    return (WEIGHT * x).flatten(1).sum(1)


def limits(norm: str = "linf", **changes) -> ThreatModel:
    fields = dict(
        name="t", norm=norm, eps=EPS.get(norm, 3.0), aim="raise", objective="score", start="ood", init="ball",
        attack="random-search", queries=600, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    return ThreatModel(**(fields | changes))


def streams(rows: int, seed: int = 0):
    return row_random(seed, "test", range(rows), "cpu", torch.float64)


def run(attack: Attack, threat: ThreatModel, x: Tensor, loss=lift):
    return maximise(loss, x, threat, attack, streams(len(x)), keep_clean=True)


def grey(rows: int, *shape: int) -> Tensor:
    return torch.full((rows, *(shape or (1, 8, 8))), 0.5, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def walk(attack: Attack, threat: ThreatModel, x: Tensor, steps: int, loss=lift):
    """What the attack proposes, before the loop projects it, and what it made the proposal from."""
    random = streams(len(x))
    x_adv, state = attack.start(x, threat, random, steps)
    for _ in range(steps - 1):
        point = threat.project(x_adv, x)
        x_adv, state = attack.step(Seen(point, loss(point, torch.arange(len(x))), None), x, threat, random, state)
        yield x_adv, state


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", NAMES)
def test_a_linear_score_is_nearly_solved(name, norm):
    # max <w, d> over ||d|| <= eps is eps times the dual norm of w; the box is far away
    x, threat = grey(2), limits(norm)
    found = run(NAMES[name](), threat, x)
    best = threat.eps * norm_of(WEIGHT[None], DUAL[norm])
    share = (found.value - lift(x, x)) / best
    assert (share >= REACH[name][norm]).all()
    assert (norm_of(found.x_adv - x, norm) <= threat.eps * (1 + 1e-12)).all()
    floor = run(random_search(), threat, x)
    assert (found.value > floor.value).all()


@pytest.mark.parametrize("queries", [2, 3, 4, 23, 60])
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_spent_exactly(name, queries):
    x, calls = uniform(3, 1, 8, 8), []

    def counted(z: Tensor, rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return lift(z, rows)

    found = run(NAMES[name](), limits(queries=queries), x, counted)
    assert calls == [3] * queries
    assert found.gradients.sum() == 0
    assert torch.allclose(lift(found.x_adv, x).double(), found.value)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_influence_one_another(name, norm):
    x = uniform(4, 1, 8, 8)
    threat = limits(norm, queries=60)
    together = run(NAMES[name](), threat, x).x_adv
    for row in (0, 3):
        random = row_random(0, "test", [row], "cpu", x.dtype)
        alone = maximise(lift, x[row : row + 1], threat, NAMES[name](), random, keep_clean=True)
        assert torch.allclose(alone.x_adv[0], together[row])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (2, 3, 4), (3, 5, 9)])
@pytest.mark.parametrize("name", NAMES)
def test_every_size_of_image_will_do(name, shape, norm):
    x = uniform(2, *shape)
    total = lambda z, _rows: z.flatten(1).sum(1)
    found = run(NAMES[name](), limits(norm, queries=100), x, total)
    assert (found.value > total(x, None)).all()
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_score_in_steps_is_no_obstacle(name):
    # a gradient of floor() is zero everywhere; probes must be long enough to cross an edge
    steps = lambda z, rows: (20 * lift(z, rows)).floor() / 20
    x, threat = grey(4), limits()
    build = square if name == "square" else lambda: NAMES[name](sigma=0.05)
    gain = run(build(), threat, x, steps).value - steps(x, None)
    assert (gain >= 0.7 * threat.eps * WEIGHT.abs().sum()).all()


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_are_passed_over(name):
    broken = lambda z, rows: lift(z, rows).masked_fill(z[:, 0, 0, 0] > 0.55, torch.nan)
    x = grey(4)
    found = run(NAMES[name](), limits(), x, broken)
    assert found.x_adv.isfinite().all() and (found.x_adv[:, 0, 0, 0] <= 0.55).all()
    assert (found.value > lift(x, x) + 0.3).all()


@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_a_pair_with_a_bad_value_adds_nothing(name):
    # from grey, one probe of every pair of row 0 is on the bad side; row 1 has no bad side
    bad = lambda z, rows: lift(z, rows).masked_fill((rows == 0) & (z[:, 0, 0, 0] > 0.5), -torch.inf)
    *_, (x_adv, state) = walk(NAMES[name](), limits(init="clean"), grey(2), 22, bad)
    assert torch.equal(x_adv[0], grey(1)[0]) and (state.mean[0] == 0).all()
    assert state.mean[1].isfinite().all() and (state.mean[1] != 0).all()


def test_square_follows_the_schedule_of_the_authors():
    assert [halvings(t, 10_000) for t in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)] == [0, *range(10)]
    assert [halvings(t, 500) for t in (0, 1, 3, 499)] == [0, 1, 2, 9]  # 20 > 10, 60 > 50, 9980 > 8000


def test_square_recolours_one_window_in_linf():
    x, threat = uniform(5, 2, 12, 12) * 0.6 + 0.2, limits()
    before = None
    loss = lambda z, _rows: z.flatten(1).sum(1)
    for x_adv, state in walk(square(), threat, x, 40, loss):
        delta = x_adv - x
        assert torch.allclose(delta.abs(), torch.full_like(delta, threat.eps))
        changed = (x_adv != state.best_x).any(1)  # (B, H, W)
        assert changed.flatten(1).any(1).all()  # no query is wasted on the point itself
        widths, heights = (changed.any(dim).sum(1) for dim in (1, 2))
        side = max(1, min(11, round((0.8 * 144 / 2 ** halvings(state.t - 1, 40)) ** 0.5)))
        assert (widths <= side).all() and (heights <= side).all()
        assert before is None or (state.best >= before).all()  # a proposal is kept only where the value rises
        before = state.best
    assert (before > loss(x, None)).all()


def test_square_starts_with_stripes():
    x = grey(3, 2, 6, 6)
    x_adv, _ = square().start(x, limits(), streams(3), 10)
    assert torch.equal(x_adv, x_adv[:, :, :1].expand_as(x))  # a column has one colour
    assert len(x_adv.unique()) == 2 and (x_adv - x).abs().max() == pytest.approx(0.1)
    assert torch.equal(square().start(x, limits(init="clean"), streams(3), 10)[0], x)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_square_moves_mass_and_loses_none(norm):
    # what two windows held goes to one of them: the whole keeps the norm eps, pixels outside stay as they are
    x, threat = grey(4, 2, 10, 10), limits(norm)
    start, _ = square().start(x, threat, streams(4), 60)
    assert torch.allclose(norm_of(start - x, norm), x.new_full((4,), threat.eps))
    for x_adv, state in walk(square(), threat, x, 60, lambda z, _rows: -z[:, :, 3, 3].sum(1)):
        assert torch.allclose(norm_of(x_adv - x, norm), x.new_full((4,), threat.eps))
        kept = (x_adv == state.best_x).all(1).flatten(1).sum(1)
        assert (x_adv != state.best_x).flatten(1).any(1).all()
        side = max(3, round((0.8 * 100 / 2 ** halvings(state.t - 1, 60)) ** 0.5) // 2 * 2 + 1)
        assert (kept >= 100 - 2 * side**2).all()


def test_square_in_l2_begins_at_the_clean_image_if_told_to():
    x, threat = grey(2), limits("l2", init="clean")
    (x_adv, _), *_ = walk(square(), threat, x, 2)
    assert torch.allclose(
        norm_of(x_adv - x, "l2"), x.new_full((2,), threat.eps)
    )  # the unused radius goes to the window


def estimate_of(attack: Attack, x: Tensor, loss, samples: int) -> Tensor:
    """First step of an l2 attack from `x`: a multiple of the estimated gradient."""
    threat = limits("l2", init="clean", eps=9.0)
    *_, (x_adv, _) = walk(attack, threat, x, 2 * samples + 2, loss)
    return x_adv - x


def test_nes_finds_the_gradient():
    bent = lambda z, rows: (3 * lift(z, rows)).tanh()
    x = (grey(6) + 0.2 * uniform(6, 1, 8, 8) - 0.1).requires_grad_()
    (grad,) = torch.autograd.grad(bent(x, None).sum(), x)
    step = estimate_of(nes(samples=400), x.detach(), bent, 400)
    cosine = torch.cosine_similarity(step.flatten(1), grad.flatten(1))
    assert (cosine > 0.85).all()  # sqrt(n / (n + D)) = sqrt(400 / 464) = 0.93 is to be expected


def test_nes_sees_the_same_slope_at_the_walls_of_the_box():
    # a pixel at a wall makes half of the way; forgetting that halves or quarters its slope
    x = grey(8, 1, 4, 4)
    x[:, :, :1], x[:, :, 1:2] = 0.0, 1.0
    step = estimate_of(nes(samples=400), x, lambda z, _rows: z.flatten(1).sum(1), 400)
    at_wall, inside = step[:, :, :2].mean(), step[:, :, 2:].mean()
    assert at_wall / inside == pytest.approx(1, abs=0.12)


def test_spsa_steps_by_adam():
    # Adam's first step is the sign of the estimate, <w, u> u for one pair, at 1 - 2/8 of the first length
    x, threat = grey(3), limits(init="clean", queries=8)
    points = [x_adv for x_adv, _ in walk(spsa(samples=1, step_size=0.4), threat, x, 8)]
    u = (points[0] - x) / 0.01
    assert torch.allclose(u.abs(), torch.ones_like(u)) and torch.allclose(points[1], x - 0.01 * u)
    expected = 0.75 * 0.4 * threat.eps * u * lift(u, None).sign().view(-1, 1, 1, 1)
    assert torch.allclose(points[2] - x, expected)


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**80])
@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_the_score_does_not_matter_in_float32(name, scale):
    # a power of two rounds nothing away; squares of such scores are beyond float32
    x, weight = uniform(2, 1, 8, 8).float(), WEIGHT.float()
    loss = lambda z, _rows: (weight * z).flatten(1).sum(1)
    plain, scaled = [run(NAMES[name](), limits(queries=130), x, f) for f in (loss, lambda z, r: scale * loss(z, r))]
    assert torch.equal(scaled.x_adv, plain.x_adv)


@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_the_last_query_goes_to_a_point(name):
    # 11 pairs would need 23 queries; the 20th must not be wasted on a probe
    x, threat = grey(3), limits(init="clean")
    *_, (x_adv, state) = walk(NAMES[name](samples=11), threat, x, 20)
    assert (lift(x_adv, None) > lift(x, None)).all() and state.updates == 1


@pytest.mark.parametrize(
    "build, match",
    [
        (lambda: square(p=0), r"`p` .* in \(0, 1\], got 0"),
        (lambda: nes(samples=0), "`samples` must be >= 1, got 0"),
        (lambda: nes(sigma=0), "`sigma` must be > 0, got 0"),
        (lambda: nes(momentum=1), r"`momentum` must be in \[0, 1\), got 1"),
        (lambda: nes(step_size=3), r"`step_size` .* in \(0, 2\], got 3"),
        (lambda: spsa(betas=(0.9, 1.0)), r"`betas` must be in \[0, 1\), got \(0.9, 1.0\)"),
    ],
)
def test_numbers_out_of_range_are_named(build, match):
    with pytest.raises(ValueError, match=match):
        build()


@pytest.mark.parametrize("name", ["nes", "spsa"])
def test_probes_fill_a_patch(name):
    # 9 free pixels: the best is 1 where the weight is positive and 0 elsewhere, half of their sum above grey
    x, free = grey(3), WEIGHT[:, 2:5, 2:5]
    found = run(NAMES[name](), limits("patch", init="clean"), x)
    assert (found.value - lift(x, x) >= 0.95 * 0.5 * free.abs().sum()).all()
    assert (found.x_adv != x).sum() <= 3 * 9


def test_square_refuses_a_patch():
    with pytest.raises(ValueError, match="`norm` must be linf, l2 or l1 for square, got 'patch'"):
        square().start(grey(1), limits("patch"), streams(1), 10)


def test_square_needs_images():
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, C, H, W\) for square, got \(2, 8\)"):
        square().start(uniform(2, 8), limits(), streams(2), 10)
