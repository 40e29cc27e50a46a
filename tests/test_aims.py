"""Aims by hand, on numbers small enough to do in one's head."""

import pytest
import torch

from oodattack import aims

X = torch.tensor([[0.1, 0.2], [0.3, 0.9]], dtype=torch.float64).view(2, 1, 1, 2)
ROWS = torch.arange(2)


def score(x):
    return x.flatten(1).sum(1)  # 0.3, 1.2


def flat(x):
    return x.flatten(1)


def values(loss, x=X, rows=ROWS):
    return loss(x, rows).tolist()


def test_hide_and_lift_are_opposites():
    assert values(aims.hide(score)) == pytest.approx([-0.3, -1.2])
    assert values(aims.lift(score)) == pytest.approx([0.3, 1.2])


def test_match_is_minus_the_squared_distance():
    z_in = torch.tensor([[0.1, 0.0], [0.0, 0.5]], dtype=torch.float64)
    assert values(aims.match(flat, z_in)) == pytest.approx([-0.04, -0.25])  # -(0 + 0.2^2), -(0.3^2 + 0.4^2)
    one = aims.match(flat, z_in)(X[1:], torch.tensor([1]))
    assert one.tolist() == pytest.approx([-0.25])  # the target goes with the row, not with the place in the batch


def test_match_takes_a_score_for_a_latent_of_one_number():
    z_in = aims.rows_of(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert values(aims.match(score, z_in)) == pytest.approx([-0.09, -0.04])  # -0.3^2, -(1.2 - 1)^2


def test_quantile_is_minus_the_distance_to_the_level():
    assert values(aims.quantile(score, torch.tensor(0.5))) == pytest.approx([-0.2, -0.7])


def test_mape_by_hand():
    z_in = torch.tensor([[2.0, -4.0], [1.0, 0.0]])
    z_out = torch.tensor([[1.0, -4.0], [1.0, 0.0]])
    assert aims.mape(z_in, z_out).tolist() == [0.125, 0.0]  # (1 + 0) / 2 / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mape_of_a_zero_target_stays_a_number(dtype):
    zero = torch.zeros(2, 3, dtype=dtype)
    found = aims.mape(zero, torch.stack([torch.zeros(3), torch.full((3,), 1e3)]).to(dtype))
    assert found[0] == 0
    assert found[1].isfinite()
    assert found[1] > 1e30


def test_close_enough_means_a_small_mape():
    generator = torch.Generator().manual_seed(0)
    z_in = torch.randn(50, 7, dtype=torch.float64, generator=generator)
    step = torch.randn(50, 7, dtype=torch.float64, generator=generator)
    reach = (-aims.close_enough(z_in)).sqrt() / step.norm(dim=1)
    z_out = z_in + step * reach[:, None]  # loss of match exactly at the bound
    assert (aims.mape(z_in, z_out) <= aims.CLOSE * (1 + 1e-9)).all()
    even = z_in + (-aims.close_enough(z_in) / 7).sqrt()[:, None]  # the bound is tight when all entries are equally off
    assert aims.mape(z_in, even).tolist() == pytest.approx([aims.CLOSE] * 50)


def test_rows_of_keeps_rows():
    assert aims.rows_of(torch.zeros(3)).shape == (3, 1)
    assert aims.rows_of(torch.zeros(3, 2, 4)).shape == (3, 8)
