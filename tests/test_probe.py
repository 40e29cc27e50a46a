"""What a probe finds on scores whose gradient is known to be right, or known to be wrong in one way."""

import pytest
import torch
from torch import nn

from oodattack.probe import Probe, probe, trouble

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(24, 2, 6, 6, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(2, 6, 6, generator=GENERATOR, dtype=torch.float64)
OTHER = torch.randn(2, 6, 6, generator=GENERATOR, dtype=torch.float64)


def linear(x):
    return (WEIGHT.to(x.dtype) * x).flatten(1).sum(1)


def instead(true, shown):
    """The value of `true` with the gradient of `shown`."""
    return lambda x: true(x).detach() + shown(x) - shown(x).detach()


def look(f, x=X, seed=0):
    return probe(f, x, seed=seed)


def test_a_linear_score_is_all_right():
    found = look(linear)
    assert found._replace(across=1.0, denied=0.0) == Probe(16, True, along=1.0, uphill=1.0, across=1.0, denied=0.0)
    assert found.across == pytest.approx(1, abs=1e-9)
    assert found.denied == pytest.approx(0, abs=1e-9)
    assert trouble(found) is None


def test_what_a_gradient_lacks_has_the_length_of_what_is_hidden():
    lacking = look(lambda x: linear(x) + (OTHER * x.detach()).flatten(1).sum(1))
    assert lacking.denied == pytest.approx(OTHER.norm().item(), rel=0.3)  # two random directions a row
    assert look(linear).denied < 1e-6 * WEIGHT.norm()


def kinks():
    torch.manual_seed(1)
    parts = [nn.Conv2d(2, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(16, 4)).double()


NET = kinks()


def stepped(x):
    """A sign step inside the score, constant to its gradient."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(NET(leaf).logsumexp(1).sum(), leaf)
    return -NET(x + 0.01 * grad.sign()).logsumexp(1)


HONEST = {
    "relu and max-pool": lambda x: -NET(x).logsumexp(1),
    "max": lambda x: -NET(x).amax(1),
    "sign step": stepped,
    "quadratic": lambda x: (x - 0.4).square().flatten(1).sum(1),
    "distance": lambda x: torch.cdist(x.flatten(1), X[:5].flatten(1)).amin(1),
    "steep": lambda x: (20 * linear(x)).exp(),
    "tiny": lambda x: 1e-20 * linear(x),
    "one pixel": lambda x: x[:, 0, 0, 0],
    "scaled gradient": instead(linear, lambda x: 1.5 * linear(x)),
}


@pytest.mark.parametrize("f", HONEST.values(), ids=HONEST)
def test_no_false_alarm(f):
    assert trouble(look(f)) is None


def test_no_false_alarm_in_float32():
    NET.float()
    try:
        for name in ("relu and max-pool", "max", "sign step", "quadratic"):
            assert trouble(look(HONEST[name], X.float())) is None
        # 1e4 leaves steps of 1e-3, far more than the smallest change that is looked at
        assert trouble(look(lambda x: 1e4 + linear(x), X.float())) is None
    finally:
        NET.double()


def without(x):
    with torch.no_grad():
        return linear(x)


MISSING = {
    "no_grad": without,
    "inference mode": torch.inference_mode()(linear),
    "detached": lambda x: linear(x.detach()),
    "unused": lambda x: linear(x.detach()) + torch.ones((), requires_grad=True),
    "numpy": lambda x: torch.from_numpy(x.numpy().sum((1, 2, 3))),
}


@pytest.mark.parametrize("f", MISSING.values(), ids=MISSING)
def test_no_gradient(f):
    found = look(f)
    assert found == Probe(16, False)
    assert trouble(found) == "no gradient"


def test_shares_are_of_rows():
    # the first 4 of 16 rows are black and below the kink
    x = X[:16].clone()
    x[:4] = 0
    found = look(lambda x: (x.flatten(1).mean(1) - 0.25).relu(), x)
    assert found.zero == 4 / 16
    assert (found.along, found.uphill) == (1, 1)  # of the others
    assert trouble(found) == "gradient zero on 25% of rows"
    x[1:4] = 1
    assert trouble(look(lambda x: (x.flatten(1).mean(1) - 0.25).relu(), x)) is None  # 1 of 16


def test_a_gradient_that_is_not_finite():
    found = look(lambda x: linear(x) + (x - x.detach()).flatten(1).sum(1).abs().sqrt())  # infinite slope times 0
    assert found.non_finite == 1
    assert trouble(found) == "gradient not finite on 100% of rows"


def test_a_zero_gradient_of_a_score_that_moves_is_not_judged_further():
    found = look(lambda x: linear(x.detach()) + 0 * x.flatten(1).sum(1))
    assert found == Probe(16, True, zero=1.0)


def test_a_zero_gradient_of_a_score_that_stands_still_is_counted_once():
    assert look(lambda x: torch.round(linear(x) / 1e3)) == Probe(16, True, zero=1.0)


def test_a_score_that_is_not_finite_near_the_images():
    calls = []

    def fades(x):
        calls.append(x)
        return linear(x) if len(calls) <= 3 else linear(x) * float("nan")

    found = look(fades)
    assert (found.along, found.uphill, found.across) == (0, 0, 0)
    assert trouble(found) is not None


def test_a_staircase_with_a_made_up_gradient_is_flat():
    found = look(instead(lambda x: torch.round(linear(x) / 1e3), linear))
    assert found.flat == 1
    assert trouble(found) == "score flat on 100% of rows, whatever its gradient says"


def test_a_flipped_gradient_leads_downhill():
    found = look(instead(linear, lambda x: -linear(x)))
    assert (found.along, found.uphill) == (0, 0)
    assert found.across == pytest.approx(-1)
    assert trouble(found).endswith("it leads uphill on 0% of rows only")


def test_a_gradient_that_is_right_on_every_other_row():
    found = look(instead(linear, lambda x: linear(x) * (-1.0) ** torch.arange(len(x))), X[:16])
    assert (found.along, found.uphill) == (0.5, 0.5)
    assert trouble(found).endswith("it leads uphill on 50% of rows only")


@pytest.mark.parametrize("factor", [3, 1 / 3])
def test_a_gradient_of_the_wrong_length(factor):
    found = look(instead(linear, lambda x: factor * linear(x)))
    assert (found.along, found.uphill) == (0, 1)
    assert trouble(found).endswith("its length is right on 0% of rows only")


def orthogonal(x):
    """A linear score whose weight has no part along WEIGHT."""
    across = OTHER - WEIGHT * (OTHER * WEIGHT).sum() / WEIGHT.square().sum()
    return (across * x).flatten(1).sum(1)


@pytest.mark.parametrize(("hidden", "found_out"), [(0.3, False), (4.0, True)])
def test_a_part_without_gradient_shows_only_in_random_directions(hidden, found_out):
    found = look(lambda x: linear(x) + hidden * orthogonal(x.detach()))
    assert (found.along, found.uphill) == (1, 1)  # along the gradient all is well
    assert (trouble(found) is not None) == found_out


@pytest.mark.parametrize("height", [0.1, 1.0])
def test_a_ripple_whose_slope_hides_that_of_the_score(height):
    found = look(lambda x: linear(x) + height * (1e5 * (OTHER * x).flatten(1).sum(1)).sin())
    assert found.along <= 0.25
    assert trouble(found).startswith("gradient disagrees with finite differences")


def test_one_of_the_steps_is_enough():
    # over a step of 2/255 in random directions the exponential is nothing like its slope
    steep = look(lambda x: (60 * linear(x)).exp())
    assert steep.across > 0.9 and steep.along == 1


def test_noise_without_a_gradient():
    torch.manual_seed(0)
    assert not look(lambda x: without(x) + torch.randn(len(x))).repeatable


def test_noise():
    torch.manual_seed(0)
    found = look(lambda x: linear(x) + torch.randn(len(x)))
    assert not found.repeatable
    assert "more than its row" in trouble(found)


def test_a_score_that_knows_whether_it_is_attacked():
    assert not look(lambda x: linear(x) + torch.is_grad_enabled()).repeatable


def test_a_score_that_depends_on_its_batch():
    found = look(lambda x: linear(x) - 0.5 * linear(x).mean())
    assert found.repeatable and not found.row_independent
    assert "more than its row" in trouble(found)


def test_cost_and_what_the_score_is_shown():
    calls = []

    def watched(x):
        calls.append(x.detach().clone())
        x.clone().zero_()
        return linear(x)

    before = X.clone()
    look(watched, torch.cat([torch.zeros_like(X[:2]), X, torch.ones_like(X[:2])]))
    assert len(calls) <= 21
    assert max(len(x) for x in calls) == 16
    assert all(x.min() >= 0 and x.max() <= 1 for x in calls)
    assert torch.equal(X, before)


def test_a_score_that_works_in_place_is_not_blamed_on_its_gradient():
    found = look(lambda x: linear(x * 0.5) if x.requires_grad else linear(x.mul_(0.5)))
    assert trouble(found) is None


def test_it_makes_no_difference_whether_the_caller_uses_autograd():
    with torch.no_grad():
        within = look(linear)
    assert within == look(linear)


def test_the_seed_fixes_the_directions():
    f = HONEST["relu and max-pool"]
    assert look(f, seed=3) == look(f, seed=3)
    assert look(f, seed=3).across != look(f, seed=4).across


def test_one_row_will_do():
    assert trouble(look(linear, X[:1])) is None


@pytest.mark.parametrize("x", [X[:0], X + 1, X * float("nan")], ids=["empty", "outside", "nan"])
def test_images_outside_the_box_are_refused(x):
    with pytest.raises(ValueError, match="`x` must be images"):
        look(linear, x)


def test_a_score_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="`f` must return one score a row"):
        look(lambda x: linear(x)[:, None])
