import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from oodattack.objectives.outlier_exposure import outlier_exposure


def test_is_the_cross_entropy_to_uniform():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    uniform = torch.full_like(logits, 1 / 5)
    found = outlier_exposure(logits).item()
    assert found == pytest.approx(cross_entropy(logits, uniform).item(), rel=1e-12)
    # and the divergence from uniform plus log C
    divergence = kl_div(logits.log_softmax(dim=1), uniform, reduction="batchmean").item()
    assert found == pytest.approx(divergence + math.log(5), rel=1e-12)


def test_by_hand():
    # row 1: log(1 + 3) - log(3) / 2 = 0.8370; row 2, flat: log 2 = 0.6931
    logits = torch.tensor([[0.0, math.log(3)], [7.0, 7.0]], dtype=torch.float64)
    expected = (math.log(4) - math.log(3) / 2 + math.log(2)) / 2
    assert outlier_exposure(logits).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_the_softmax_less_uniform():
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True)
    outlier_exposure(logits).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25]], dtype=torch.float64))  # (1/4, 3/4) - 1/2


def test_large_logits_do_not_overflow():
    assert outlier_exposure(torch.tensor([[1000.0, 0.0]])).item() == pytest.approx(500)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (3, 1)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"`logits_aux` must have shape \(M, C\)"):
        outlier_exposure(torch.zeros(shape))
