import math

import pytest
import torch

from oodattack.objectives.openmix import mix, mixing_share, openmix

DOUBLE = torch.float64


def share(value):
    return torch.tensor(value, dtype=DOUBLE)


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5])
def test_by_hand(weight):
    # ID: probability 1/2 of the true class. Mixture: 1/4 of the true class, 1/8 of the last; lambda = 1/4:
    # log 2 + weight * (log 4 / 4 + 3 / 4 * log 8) = log 2 * (1 + weight * (1/2 + 9/4))
    logits = torch.tensor([[4.0, 3, 1]], dtype=DOUBLE).log()
    mixed = torch.tensor([[2.0, 5, 1]], dtype=DOUBLE).log()
    found = openmix(logits, torch.tensor([0]), mixed, share(0.25), weight=weight)
    assert found.item() == pytest.approx(math.log(2) * (1 + weight * 2.75), rel=1e-12)


def test_gradient_on_the_mixture_is_softmax_less_the_soft_label():
    mixed = torch.tensor([[2.0, 5, 1]], dtype=DOUBLE).log().requires_grad_()
    openmix(torch.zeros(1, 3, dtype=DOUBLE), torch.tensor([0]), mixed, share(0.25), weight=1.0).backward()
    # (1/4, 5/8, 1/8) - (1/4, 0, 3/4)
    torch.testing.assert_close(mixed.grad, torch.tensor([[0, 0.625, -0.625]], dtype=DOUBLE))


def test_mixtures_by_hand():
    x, aux = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.1, 0.5]])
    torch.testing.assert_close(mix(x, aux, share(0.75)), torch.tensor([[0.75, 0.25], [0.4, 0.5]]))
    assert mix(x, aux, share(0.3)).dtype == x.dtype
    assert torch.equal(mix(x, aux, share(0.0)), aux)


@pytest.mark.parametrize("concentration", [1, 2, 10])
def test_shares_have_the_moments_of_the_beta_distribution(concentration):
    draw = torch.Generator().manual_seed(0)
    found = torch.stack([mixing_share(draw, concentration=concentration) for _ in range(4000)])
    spread = 1 / math.sqrt(8 * concentration + 4)  # of Beta(a, a): sqrt(a^2 / (4 a^2 (2 a + 1)))
    assert found.mean().item() == pytest.approx(0.5, abs=5 * spread / math.sqrt(4000))
    assert found.std().item() == pytest.approx(spread, rel=0.06)  # 5 standard errors, 1 / sqrt(8000) each
    assert ((found >= 0) & (found <= 1)).all()


def test_shares_follow_the_generator_and_nothing_else():
    state = torch.random.get_rng_state()
    first, again = (mixing_share(torch.Generator().manual_seed(7), concentration=10) for _ in range(2))
    assert first == again and first.shape == ()
    assert torch.equal(state, torch.random.get_rng_state())


LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.tensor([0, 2])}, r"`y` must be in 0\.\.1"),
        ({"logits_mixed": torch.zeros(1, 3)}, r"`logits_mixed` must have the shape of `logits`, got \(1, 3\)"),
        ({"share": share(1.5)}, r"`share` must be a scalar in \[0, 1\], got 1.5"),
        ({"share": share([0.5, 0.5])}, r"`share` must be a scalar in \[0, 1\], got \[0.5, 0.5\]"),
        ({"weight": -1.0}, "`weight` must be >= 0"),
    ],
)
def test_wrong_use_is_named(change, message):
    arguments = {
        "logits": LOGITS,
        "y": torch.tensor([0, 1]),
        "logits_mixed": LOGITS,
        "share": share(0.5),
        "weight": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        openmix(**arguments | change)


def test_wrong_mixtures_are_named():
    with pytest.raises(ValueError, match=r"`x_aux` must have the shape of `x`, got \(3, 2\) and \(2, 2\)"):
        mix(torch.zeros(2, 2), torch.zeros(3, 2), share(0.5))
    with pytest.raises(ValueError, match="`concentration` must be >= 1, got 0"):
        mixing_share(torch.Generator(), concentration=0)
