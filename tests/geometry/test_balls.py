import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.geometry.balls import (
    PROJECT,
    nearest_allowed,
    norm_of,
    project_l1,
    project_l2,
    project_linf,
    project_roughly,
    project_then_clamp,
)

ALLOWED = {"then_clamp": project_then_clamp, "nearest": nearest_allowed}
laws = settings(derandomize=True, deadline=None, max_examples=40)


def numbers(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(seed, *shape, dtype=torch.float64):
    """Values in [0, 1], a third of them on a wall."""
    return (1.5 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 0.25).clamp(0, 1)


def inner(a, b):
    return (a * b).flatten(1).sum(dim=1)


@pytest.mark.parametrize("norm", PROJECT)
@laws
@given(seed=st.integers(0, 2**16), eps=st.floats(1e-3, 10.0))
def test_projection_is_the_nearest_point_of_the_ball(norm, seed, eps):
    delta, other = numbers(seed, 2, 5, 3, 4)
    u, v = PROJECT[norm](delta, eps), PROJECT[norm](3 * other, eps)
    assert (norm_of(u, norm) <= eps * (1 + 1e-12)).all()
    torch.testing.assert_close(PROJECT[norm](u, eps), u)  # idempotent
    # u is nearest if and only if <delta - u, v - u> <= 0 for every v of the ball
    assert (inner(delta - u, v - u) <= 1e-9 * eps).all()


@pytest.mark.parametrize("norm", PROJECT)
def test_rows_inside_come_back_bit_for_bit(norm):
    delta = numbers(0, 4, 3, 2, dtype=torch.float32)
    delta[:2] *= 0.9 / norm_of(delta[:2], norm).view(2, 1, 1)
    u = PROJECT[norm](delta, 1.0)
    assert torch.equal(u[:2], delta[:2])
    assert not torch.equal(u[2:], delta[2:])
    assert torch.equal(PROJECT[norm](delta, float("inf")), delta)


def test_linf_reference_value():
    u = project_linf(torch.tensor([[3.0, -1.5, 0.5]]), 1.0)
    torch.testing.assert_close(u, torch.tensor([[1.0, -1.0, 0.5]]))


def test_l2_reference_value():
    # length 5 to length 1
    torch.testing.assert_close(project_l2(torch.tensor([[3.0, -4.0]]), 1.0), torch.tensor([[0.6, -0.8]]))


@pytest.mark.parametrize(
    ("delta", "eps", "expected"),
    [
        ([3.0, -1.5, 0.5], 2.5, [2.0, -0.5, 0.0]),  # theta = 1: 2 + 0.5 + 0 = 2.5
        ([3.0, -1.5, 0.5], 1.0, [1.0, 0.0, 0.0]),  # theta = 2: the others are below it
        ([1.0, 1.0, -1.0], 1.5, [0.5, 0.5, -0.5]),  # ties share
        ([3.0, -1.5, 0.5], 0.0, [0.0, 0.0, 0.0]),
    ],
)
def test_l1_reference_values(delta, eps, expected):
    u = project_l1(torch.tensor([delta], dtype=torch.float64), eps)
    torch.testing.assert_close(u, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("norm", PROJECT)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_float32_images_stay_in_the_ball(norm, scale):
    delta = scale * numbers(0, 1, 3, 128, 128, dtype=torch.float32)
    for eps in (1 / 255, 12.0):
        size = norm_of(PROJECT[norm](delta, eps).double(), norm)
        assert (size <= eps * (1 + 1e-6)).all()
        assert (size >= norm_of(delta.double(), norm).clamp(max=eps) * (1 - 1e-5)).all()


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("norm", PROJECT)
@laws
@given(seed=st.integers(0, 2**16), eps=st.floats(1e-3, 4.0))
def test_result_is_allowed(name, norm, seed, eps):
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        x = pixels(seed, 4, 3, 5, dtype=dtype)
        x_adv = x + numbers(seed + 1, 4, 3, 5, dtype=dtype)
        u = ALLOWED[name](x_adv, x, eps, norm)
        assert u.dtype == dtype and ((u >= 0) & (u <= 1)).all()
        assert (norm_of(u.double() - x.double(), norm) <= eps * (1 + slack)).all()
        torch.testing.assert_close(ALLOWED[name](u, x, eps, norm), u, rtol=0, atol=slack)


@pytest.mark.parametrize("norm", PROJECT)
@laws
@given(seed=st.integers(0, 2**16), eps=st.floats(1e-2, 4.0), reach=st.floats(0.1, 10.0))
def test_nearest_allowed_is_nearest(norm, seed, eps, reach):
    x = pixels(seed, 4, 3, 5)
    x_adv = x + reach * numbers(seed + 1, 4, 3, 5)
    u = nearest_allowed(x_adv, x, eps, norm)
    feasible = [project_then_clamp(x + reach * numbers(seed + k, 4, 3, 5), x, eps, norm) for k in range(2, 22)]
    feasible += [x, project_then_clamp(x_adv, x, eps, norm)]
    for v in feasible:  # inner product <= 0 for every v of the ball and the box
        assert (inner(x_adv - u, v - u) <= 1e-9 * reach).all()


@pytest.mark.parametrize(
    ("norm", "eps", "nearest", "then_clamp"),
    [
        # from (0.9, 0.5) to (1.9, 1.0): the first pixel has 0.1 to go, the second gets what is left of eps
        ("l1", 0.3, [1.0, 0.7], [1.0, 0.5]),  # theta = 0.3; ball alone: theta = 0.7 spends all on the first pixel
        ("l2", 0.26, [1.0, 0.74], [1.0, 0.5 + 0.13 / 1.25**0.5]),  # 0.1^2 + 0.24^2 = 0.26^2; ball alone: no 0.24
        ("linf", 0.2, [1.0, 0.7], [1.0, 0.7]),  # no difference
    ],
)
def test_nearest_allowed_by_hand(norm, eps, nearest, then_clamp):
    x, x_adv = torch.tensor([[0.9, 0.5]]).double(), torch.tensor([[1.9, 1.0]]).double()
    torch.testing.assert_close(nearest_allowed(x_adv, x, eps, norm), torch.tensor([nearest]).double())
    torch.testing.assert_close(project_then_clamp(x_adv, x, eps, norm), torch.tensor([then_clamp]).double())


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("norm", PROJECT)
def test_allowed_inputs_come_back_bit_for_bit(name, norm):
    x = pixels(0, 3, 40, dtype=torch.float32)
    x_adv = (x + 1e-3 * numbers(1, 3, 40, dtype=torch.float32)).clamp(0, 1)
    assert torch.equal(ALLOWED[name](x_adv, x, 1.0, norm), x_adv)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_small_linf_ball_is_not_left_by_rounding(name):
    # half the sums x + eps round away from x, by up to 3e-8: 1e-5 of this eps
    x, eps = torch.linspace(0, 1, 1000).view(1, -1), 0.1 / 255
    for side in (-1, 1):
        u = ALLOWED[name](x + side, x, eps, "linf")
        assert (u.double() - x.double()).abs().max() <= eps * (1 + 1e-6)


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("norm", PROJECT)
def test_no_room_and_no_rows(name, norm):
    x, nothing = pixels(0, 2, 6), torch.empty(0, 3, 4, 4)
    assert torch.equal(ALLOWED[name](x + 1, x, 0.0, norm), x)
    corner = torch.ones(1, 6)
    assert torch.equal(ALLOWED[name](corner + 1, corner, 0.5, norm), corner)
    assert ALLOWED[name](nothing, nothing, 0.5, norm).shape == nothing.shape
    assert PROJECT[norm](nothing, 0.5).shape == nothing.shape
    assert norm_of(nothing, norm).shape == (0,)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_radius_that_rounding_alone_makes_too_small(norm):
    # every pixel that moves ends on a wall, one does not move at all, and eps is that length less one rounding step
    for walls in range(2, 60):
        x = torch.cat((torch.linspace(0.1, 0.9, walls), torch.full((1,), 0.5))).double().view(1, -1)
        x_adv = torch.cat((x[:, :-1] + 7, x[:, -1:]), dim=1)
        length = norm_of(1 - x[:, :-1], norm)
        u = nearest_allowed(x_adv, x, length.nextafter(torch.zeros(1).double()).item(), norm)
        torch.testing.assert_close(u, x_adv.clamp(0, 1))


def test_norms_by_hand():
    delta = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]]])
    for norm, expected in (("linf", 4.0), ("l2", 5.0), ("l1", 7.0)):
        assert norm_of(delta, norm).tolist() == [expected, 0.0]


def test_unknown_norm_and_negative_radius_are_named():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"`norm` must be one of \['l1', 'l2', 'linf'\], got 'L2'"):
        norm_of(x, "L2")
    for move in ALLOWED.values():
        with pytest.raises(ValueError, match="`norm` must be one of"):
            move(x, x, 1.0, "l3")
    for project in PROJECT.values():
        with pytest.raises(ValueError, match="`eps` must be >= 0, got -1"):
            project(x, -1.0)


@pytest.mark.parametrize("norm", PROJECT)
def test_the_projection_inside_a_search_is_the_exact_one_up_to_rounding(norm):
    x = pixels(0, 6, 1, 8, 8, dtype=torch.float32)
    x_adv = x + numbers(1, 6, 1, 8, 8, dtype=torch.float32)
    exact = nearest_allowed if norm == "l1" else project_then_clamp
    rough = project_roughly(x_adv, x, 0.3, norm)
    torch.testing.assert_close(rough, exact(x_adv, x, 0.3, norm), rtol=0, atol=1e-6)
    assert rough.min() >= 0 and rough.max() <= 1
