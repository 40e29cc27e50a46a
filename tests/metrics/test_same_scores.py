import pytest
import torch

from oodattack.metrics import same_scores

KNOWN = torch.tensor([-1.0, 9.0])  # spread 10, size 9: 1e-3 * 10 + 1e-5 * 9 = 0.01009


@pytest.mark.parametrize(("off", "same"), [(0.0, True), (0.0100, True), (-0.0100, True), (0.0102, False)])
def test_by_hand(off, same):
    a = torch.tensor([0.0, 5.0])
    assert same_scores(a, a + torch.tensor([0.0, off]), KNOWN) == same


def test_a_constant_score_has_the_slack_of_its_size():
    known = torch.full((3,), 100.0)  # 1e-5 * 100 = 0.001
    assert same_scores(known, known + 0.0009, known) and not same_scores(known, known + 0.0011, known)


@pytest.mark.parametrize("wild", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_makes_nothing_equal(wild):
    a, known = torch.zeros(3), torch.tensor([0.0, 1.0, wild])
    assert not same_scores(a, a, known)
    assert not same_scores(known, known, KNOWN)
