"""Log-odds of the outlier class by hand."""

from math import log

import pytest
import torch

from oodattack import objectives
from oodattack.detectors.outlier_class import outlier_log_odds


def test_by_hand():
    # p = (1/6, 2/6, 3/6): odds of the last one 1; p = (2, 2, 1)/5: odds 1/4
    logits = torch.tensor([[0, log(2), log(3)], [log(2), log(2), 0]], dtype=torch.float64)
    assert outlier_log_odds(logits).tolist() == pytest.approx([0, log(1 / 4)])


def test_it_is_what_training_calls_by_that_name():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(outlier_log_odds(logits), objectives.outlier_log_odds(logits))
    torch.testing.assert_close(outlier_log_odds(logits).sigmoid(), logits.softmax(dim=1)[:, -1])


def test_gradient_does_not_saturate():
    logits = torch.tensor([[300.0, 0.0]], requires_grad=True)  # p = (1, 0) in float32
    (gradient,) = torch.autograd.grad(outlier_log_odds(logits).sum(), logits)
    assert gradient.tolist() == [[-1.0, 1.0]]
