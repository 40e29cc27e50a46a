import math

import pytest
import torch

from oodattack.objectives.langevin import langevin

DOUBLE = torch.float64


def normal(x):
    """log density of N(0, 1) in every coordinate, up to a constant."""
    return -x.flatten(1).square().sum(dim=1) / 2


def run(x, steps=1, step_size=0.1, noise=0.0, seed=0, density=normal):
    return langevin(
        density, x, steps=steps, step_size=step_size, noise=noise, generator=torch.Generator().manual_seed(seed)
    )


def test_without_noise_by_hand():
    # the gradient is -x: each step multiplies by 1 - 0.1, uphill in the density
    x = torch.tensor([[1.0, -2.0]], dtype=DOUBLE)
    torch.testing.assert_close(run(x, steps=3), x * 0.9**3)


def test_noise_is_added_at_every_step():
    x = torch.tensor([[1.0, -2.0]], dtype=DOUBLE)
    z = torch.Generator().manual_seed(5)
    first, second = (torch.randn(1, 2, generator=z, dtype=DOUBLE) for _ in range(2))
    expected = 0.9 * (0.9 * x + 0.3 * first) + 0.3 * second
    torch.testing.assert_close(run(x, steps=2, noise=0.3, seed=5), expected)


def test_with_matching_noise_the_chain_samples_the_density():
    # x <- (1 - a) x + sqrt(2 a) z has variance 2 a / (1 - (1 - a)^2) = 2 / (2 - a) in the limit
    a = 0.2
    found = run(torch.full((4000, 1), 5.0, dtype=DOUBLE), steps=60, step_size=a, noise=math.sqrt(2 * a))
    assert found.mean().item() == pytest.approx(0, abs=0.1)
    assert found.var().item() == pytest.approx(2 / (2 - a), rel=0.1)


def test_rows_do_not_influence_one_another():
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    density = lambda v: v.flatten(1).logsumexp(dim=1)
    one_by_one = torch.cat([run(row[None], steps=4, density=density) for row in x])
    torch.testing.assert_close(run(x, steps=4, density=density), one_by_one)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_leaves_parameters_input_and_global_randomness_alone(dtype):
    weight = torch.ones(3, dtype=dtype, requires_grad=True)
    x = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    state = torch.random.get_rng_state()
    with torch.no_grad():  # as when a whole training step is a function of its own
        found = run(x, steps=2, step_size=1.0, density=lambda v: (v * weight).sum(dim=1))
    torch.testing.assert_close(found, torch.full((2, 3), 2.0, dtype=dtype))
    assert weight.grad is None and x.grad is None and not found.requires_grad and (x == 0).all()
    assert torch.equal(state, torch.random.get_rng_state())


WRONG = [{"steps": 0}, {"step_size": 0.0}, {"noise": -0.1}, {"step_size": math.nan}, {"noise": math.nan}]


@pytest.mark.parametrize("change", WRONG)
def test_wrong_numbers_are_named(change):
    with pytest.raises(ValueError, match="`steps` must be >= 1, `step_size` > 0 and `noise` >= 0"):
        run(torch.zeros(1, 1), **change)
