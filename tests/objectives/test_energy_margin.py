import math

import pytest
import torch

from oodattack.objectives.energy_margin import energy_margin, free_energy

DOUBLE = torch.float64
ID, AUX = torch.tensor([-30.0, -20.0], dtype=DOUBLE), torch.tensor([-10.0, 0.0, -8.0, -7.0], dtype=DOUBLE)


def test_free_energy_by_hand():
    # -log(1 + 1), -log(1 + 3), and large logits do not overflow
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [1000.0, 1000.0]], dtype=DOUBLE)
    expected = torch.tensor([-math.log(2), -math.log(4), -1000 - math.log(2)], dtype=DOUBLE)
    torch.testing.assert_close(free_energy(logits), expected)


def test_loss_by_hand():
    # ID: (0 + 5^2) / 2 = 12.5; auxiliary: (3^2 + 0 + 1^2 + 0) / 4 = 2.5
    assert energy_margin(ID, AUX, margin_id=-25, margin_aux=-7).item() == 15


def test_loss_is_zero_beyond_both_margins():
    assert energy_margin(ID, AUX, margin_id=-20, margin_aux=-10).item() == 0


def test_descent_lowers_id_and_raises_auxiliary_energies():
    id_, aux = ID.clone().requires_grad_(), AUX.clone().requires_grad_()
    energy_margin(id_, aux, margin_id=-25, margin_aux=-7).backward()
    # 2 * 5 / 2 for the one ID row above its margin; -2 * 3 / 4 and -2 * 1 / 4 for the auxiliary rows below theirs
    assert id_.grad.tolist() == [0, 5]
    assert aux.grad.tolist() == [-1.5, 0, -0.5, 0]


@pytest.mark.parametrize(("margin_id", "margin_aux"), [(-7, -25), (-7, -7), (float("nan"), -7)])
def test_margins_in_the_wrong_order_are_named(margin_id, margin_aux):
    with pytest.raises(ValueError, match=r"`margin_id` must be < `margin_aux`.*swap the margins"):
        energy_margin(ID, AUX, margin_id=margin_id, margin_aux=margin_aux)


def test_energies_that_are_no_vectors_are_named():
    with pytest.raises(ValueError, match=r"`energy_id` must have shape \(N,\) with N >= 1, got \(0,\)"):
        energy_margin(ID[:0], AUX, margin_id=-25, margin_aux=-7)
    with pytest.raises(ValueError, match=r"`energy_aux` must have shape \(N,\) with N >= 1, got \(4, 1\)"):
        energy_margin(ID, AUX[:, None], margin_id=-25, margin_aux=-7)
