"""What the line between two sets says of a gradient: exact on polynomials, honest on kinks, deaf to no jump."""

import pytest
import torch

from oodattack.between import PAIRS, misled_share, pairs, unexplained_share

A, B = (torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))


def mean(x):
    return x.flatten(1).mean(1)


def corner(x):
    return x[:, 0, 0, 0]


def flipped(x):
    """The mean, with minus its gradient."""
    return 2 * mean(x).detach() - mean(x)


def away():
    return A, (B + 2) / 3  # mean 0.83


def test_pairs_are_drawn_at_random_and_the_smaller_set_is_used_again():
    some, other = pairs(A, B[:5], seed=0)
    assert len(some) == len(other) == 40
    assert sorted(map(float, corner(some))) == sorted(map(float, corner(A)))
    assert {float(v) for v in corner(other)} == {float(v) for v in corner(B[:5])}
    assert not torch.equal(some, A) and torch.equal(some, pairs(A, B[:5], seed=0)[0])
    assert not torch.equal(some, pairs(A, B[:5], seed=1)[0])
    assert len(pairs(A.repeat(3, 1, 1, 1), B, seed=0)[0]) == PAIRS


@pytest.mark.parametrize(
    "f", [mean, lambda x: mean(x) ** 3, lambda x: (20 * mean(x)).sigmoid(), lambda x: x.flatten(1).amax(1)]
)
def test_an_honest_gradient_leaves_nothing_open(f):
    assert unexplained_share(f, *away()) == 0


@pytest.mark.parametrize(("share", "found"), [(0.25, 0.25), (0.125, 0.125), (0, 0)])
def test_images_beyond_a_jump_are_counted(share, found):
    a, b = away()
    b = b.clone()
    b[:, 0, 0, 0] = 0.2
    b[: int(share * len(b)), 0, 0, 0] = 0.95
    a = a.clone()
    a[:, 0, 0, 0] = 0.2
    assert unexplained_share(lambda x: mean(x) + (corner(x) > 0.5), a, b) == pytest.approx(found)


def test_two_jumps_do_not_make_up_for_one_another():
    a, b = away()
    up_and_down = lambda x: mean(x) + 3.0 * ((mean(x) > 0.6) & (mean(x) < 0.7))
    assert unexplained_share(up_and_down, a, b) > 0.9


def test_a_gradient_that_is_no_number_settles_nothing():
    root = lambda x: ((mean(x) - 0.65).abs() - 0.006).clamp(min=0).sqrt()  # of 0: its slope there is NaN
    jump = lambda x: mean(x) + 3.0 * (mean(x) > 0.65)
    assert unexplained_share(jump, *away()) > 0.9
    assert unexplained_share(lambda x: jump(x) + 1e-3 * root(x), *away()) > 0.9


def test_the_gradient_of_another_function_is_told():
    assert unexplained_share(flipped, *away()) == 1


SIGNS = torch.tensor([1.0, -1.0]).repeat(8).view(4, 4)
SIGNS[0, :2] = 0


def apart(x):
    """Neither mean nor corner change along its gradient."""
    return mean(SIGNS * x)


def test_a_steep_slope_between_plateaus_that_lead_elsewhere_is_resolved_and_misleads():
    steep = lambda x: (400 * (mean(x) - 0.65)).sigmoid() + 0.01 * apart(x)
    assert unexplained_share(steep, *away()) == 0
    assert misled_share(steep, *away()) > 0.95


@pytest.mark.parametrize("slope", [1e-3, -1e-3])
def test_the_way_that_the_plateaus_lead_decides(slope):
    steep = lambda x: (1000 * (mean(x) - 0.65)).sigmoid() + slope * mean(x)
    share = misled_share(steep, *away())
    assert share > 0.9 if slope < 0 else share == 0


def test_what_saturates_leads_on():
    (a, b), saturated = away(), lambda x: (60 * (mean(x) - 0.65)).sigmoid()
    slopes = [(saturated(x) * (1 - saturated(x)) * 60 / 4).double() for x in (a, b)]  # the mean's gradient is 1/4 long
    far = torch.linalg.vector_norm((a - b).flatten(1), dim=1)
    steeper = (saturated(a) - saturated(b)).abs() / far / torch.maximum(*slopes)
    assert (steeper > 10).double().mean() > 0.5
    assert misled_share(saturated, a, b) == 0


@pytest.mark.parametrize("share", [0, 0.25, 0.5])
def test_pairs_across_a_steep_slope_are_counted(share):
    a, b = A.clone(), B.clone()
    a[:, 0, 0, 0] = b[:, 0, 0, 0] = 0.2
    b[: int(share * len(b)), 0, 0, 0] = 0.95
    steep = lambda x: apart(x) + 50 * (400 * (corner(x) - 0.5)).sigmoid()
    assert misled_share(steep, a, b) == pytest.approx(share)


def test_as_many_at_once_as_there_is_room_for():
    sizes = []

    def f(x):
        sizes.append(len(x))
        return mean(x) + (mean(x) > 0.6)

    whole = unexplained_share(f, *away()), misled_share(f, *away())
    sizes.clear()
    assert (unexplained_share(f, *away(), at_once=7), misled_share(f, *away(), at_once=7)) == whole
    assert max(sizes) == 7


@pytest.mark.parametrize("gradient", [True, False])
def test_nothing_is_said_of_what_does_not_differ_or_has_no_gradient(gradient):
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    score = lambda z: mean(z) if gradient else mean(z).detach()
    assert unexplained_share(score, x, x if gradient else x / 2) is None
    assert misled_share(score, x, x if gradient else x / 2) is None


def test_no_score_is_asked_about_no_images():
    def strict(x):
        assert len(x)  # as a score that reshapes to (len(x), -1) does
        return mean(x)

    assert misled_share(strict, *away()) == unexplained_share(strict, *away()) == 0
