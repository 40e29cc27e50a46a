"""The score of Outlier Exposure by hand."""

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from oodattack.detectors.oe_score import oe_score


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # p = (3/4, 1/4): (log 3/4 + log 1/4) / 2; equal logits: log 1/3
    assert oe_score(double([log(3), 0])).item() == pytest.approx(log(3 / 16) / 2)
    assert oe_score(double([7, 7, 7])).item() == pytest.approx(-log(3))


def test_it_is_the_mean_logit_minus_the_logsumexp_and_minus_a_cross_entropy():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(oe_score(logits), logits.mean(1) - logits.logsumexp(1))
    torch.testing.assert_close(
        oe_score(logits), -cross_entropy(logits, torch.full((20, 5), 0.2).double(), reduction="none")
    )


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-20, 20))
def test_equal_logits_score_highest_and_shifts_do_not_matter(values, shift):
    score = oe_score(double(values)).item()
    assert score <= -log(len(values)) + 1e-12
    assert oe_score(double(values) + shift).item() == pytest.approx(score, abs=1e-9)


def test_gradient_does_not_saturate():
    # 1/2 - p = (-1/2, 1/2) for p = (1, 0) in float32
    logits = torch.tensor([[300.0, 0.0]], requires_grad=True)
    score = oe_score(logits)
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    assert score.item() == -150 and gradient.tolist() == [[-0.5, 0.5]]
