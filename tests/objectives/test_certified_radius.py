"""The radius of eq. (4), on networks whose Lipschitz constant is known exactly: s(x) = a^T relu(Q x) with Q orthogonal.

Where all units are on, the gradient is Q^T a; elsewhere it leaves entries of a out. So the constant is ||a||_2.
"""

import pytest
import torch

from oodattack.objectives.certified_radius import certified_radius, gap_radius

DOUBLE = torch.float64
D = 6
Q = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)).Q
A = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5, 0.25], dtype=DOUBLE)
THRESHOLD = 2.0
LIPSCHITZ = A.norm().item()


def score(x):
    return (x.flatten(1) @ Q.T).relu() @ A


def inputs(n=200, seed=1):
    """Points on both sides of the threshold."""
    return torch.randn(n, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def local_bound(x, ball):
    """Lipschitz constants on balls: units that are off all over a ball do not count, as rows of Q have norm 1."""
    may_be_on = x.flatten(1) @ Q.T > -ball
    return torch.linalg.vector_norm(may_be_on * A, dim=1)


def flips(x, x_adv):
    return (score(x) > THRESHOLD) != (score(x_adv) > THRESHOLD)


def moved(x, direction, radius):
    step = direction.flatten(1)
    step = step / step.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return x + (step * radius[:, None]).view_as(x)


def search(x, radius, *, steps=30, draws=20, seed=2):
    """Whether random points or projected gradient steps within the radius change any decision, row by row."""
    found = torch.zeros(len(x), dtype=torch.bool)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        direction = torch.randn(x.shape, generator=draw, dtype=DOUBLE)
        found |= flips(x, moved(x, direction, radius))
    sign = torch.where(score(x) > THRESHOLD, -1.0, 1.0).to(DOUBLE)
    x_adv = moved(x, torch.randn(x.shape, generator=draw, dtype=DOUBLE), 0.1 * radius)
    for _ in range(steps):
        point = x_adv.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((sign * score(point)).sum(), point)
        step = moved(x_adv, gradient, 0.3 * radius) - x
        x_adv = x + step * (radius / step.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
        found |= flips(x, x_adv)
    return found


def test_both_decisions_are_among_the_inputs():
    share = (score(inputs()) > THRESHOLD).double().mean()
    assert 0.3 < share < 0.7


@pytest.mark.parametrize("ball", [None, 0.2])
def test_nothing_inside_changes_the_decision(ball):
    x = inputs()
    radius = certified_radius(score, x, threshold=THRESHOLD, lipschitz=LIPSCHITZ, ball=ball)
    assert (radius >= 0).all() and radius.max() > 0.1
    assert not search(x, radius * (1 - 1e-9)).any()
    if ball is None:  # the search is able to find flips: a little further out it does
        assert search(x, 3 * radius).double().mean() > 0.3


def test_local_bounds_give_larger_radii_that_hold_as_well():
    x, ball = inputs(), 0.3
    everywhere = certified_radius(score, x, threshold=THRESHOLD, lipschitz=LIPSCHITZ)
    near = certified_radius(score, x, threshold=THRESHOLD, lipschitz=local_bound(x, ball), ball=ball)
    assert (near <= ball).all()
    assert (near >= everywhere.clamp(max=ball)).all()
    better = near > 1.01 * everywhere
    assert better.double().mean() > 0.1
    assert not search(x, near * (1 - 1e-9)).any()


def test_the_radius_is_tight_where_all_units_are_on():
    # x = Q^T (1 + noise): moving against the gradient by gap / ||a|| lands on the threshold exactly
    x = ((3 + torch.rand(20, D, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)) @ Q).view(-1, 1, 2, 3)
    threshold = 20.0
    radius = certified_radius(score, x, threshold=threshold, lipschitz=LIPSCHITZ)
    assert (score(x) > threshold).all() and (radius < 3).all()
    down = -(A @ Q).expand(20, D).view_as(x)
    torch.testing.assert_close(score(moved(x, down, radius)), torch.full((20,), threshold, dtype=DOUBLE))
    assert (score(moved(x, down, 1.001 * radius)) < threshold).all()
    assert (score(moved(x, down, 0.999 * radius)) > threshold).all()


def test_the_gradient_norm_at_the_input_is_no_bound():
    # what GReg penalises: taken for L it certifies radii that are wrong
    x = inputs().requires_grad_()
    slope = torch.autograd.grad(score(x).sum(), x)[0].flatten(1).norm(dim=1).clamp(min=1e-3)
    radius = certified_radius(score, x, threshold=THRESHOLD, lipschitz=slope, ball=5.0)
    assert search(x.detach(), radius * (1 - 1e-9)).any()


def test_equation_4_by_hand():
    # gaps 3, 1, 0, -2 over L = 2 within eps = 1: 1 (cut), 1/2, 0, 0 (nothing to certify)
    gap = torch.tensor([3.0, 1.0, 0.0, -2.0])
    torch.testing.assert_close(gap_radius(gap, lipschitz=2.0, ball=1.0), torch.tensor([1, 0.5, 0, 0]))
    flat = gap_radius(gap, lipschitz=0.0, ball=1.0)  # a score that does not change: all of the ball, if it is right
    torch.testing.assert_close(flat, torch.tensor([1.0, 1, 1, 0]))
    by_row = gap_radius(gap, lipschitz=torch.tensor([2.0, 4, 1, 1]), ball=torch.tensor([9.0, 9, 9, 9]))
    torch.testing.assert_close(by_row, torch.tensor([1.5, 0.25, 0, 0]))


def test_a_linear_score_by_hand():
    # s = 3 a - 4 b, ||(3, -4)|| = 5; scores 3 and -5, threshold 1: gaps 2 and 6
    x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    found = certified_radius(lambda v: v @ torch.tensor([3.0, -4.0]), x, threshold=1.0, lipschitz=5.0)
    torch.testing.assert_close(found, torch.tensor([0.4, 1.2]))
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lipschitz": -1.0}, "`lipschitz` must be >= 0, got -1"),
        ({"lipschitz": torch.tensor(float("nan"))}, "`lipschitz` must be >= 0, got nan"),
        ({"lipschitz": float("inf")}, "`lipschitz` must be finite, got inf"),
        ({"lipschitz": torch.ones(4)}, "`ball` must be given with a bound a row, got None"),
        ({"lipschitz": torch.ones(3), "ball": 1.0}, r"`lipschitz` must be a number or have shape \(4,\), got \(3,\)"),
        ({"ball": -1.0}, "`ball` must be >= 0, got -1"),
        ({"score": lambda x: x}, r"`score` must return shape \(4,\), got \(4, 1, 2, 3\)"),
    ],
)
def test_wrong_use_is_named(change, message):
    arguments = {"score": score, "x": inputs(4), "threshold": THRESHOLD, "lipschitz": LIPSCHITZ} | change
    with pytest.raises(ValueError, match=message):
        certified_radius(**arguments)


def test_scores_that_are_not_finite_are_named():
    with pytest.raises(FloatingPointError, match="scores must be finite, got 4 of 4"):
        certified_radius(lambda x: score(x) / 0, inputs(4), threshold=0.0, lipschitz=1.0)
