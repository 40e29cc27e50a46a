import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from oodattack.metrics.aupr import aupr

FEW_LEVELS = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        ([1.0, 1.0, 1.0], [1.0], 1 / 4),  # one threshold: precision is the share of OOD
        ([2.0], [1.0, 3.0], (1 + 2 / 3) / 2),  # recall 1/2 at precision 1, then 1/2 more at 2/3
        ([2.0, 3.0], [1.0], 1 / 3),
    ],
)
def test_aupr_by_hand(id_scores, ood_scores, expected):
    assert aupr(torch.tensor(id_scores), torch.tensor(ood_scores)) == pytest.approx(expected, abs=1e-15)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(a=FEW_LEVELS, b=FEW_LEVELS)
def test_aupr_with_many_ties_is_that_of_sklearn(a, b):
    expected = average_precision_score([0] * len(a) + [1] * len(b), a + b)
    assert aupr(torch.tensor(a).double(), torch.tensor(b).double()) == pytest.approx(expected, abs=1e-12)


def test_aupr_of_continuous_scores_is_that_of_sklearn():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, generator=g), 0.7 + torch.randn(200, generator=g)
    expected = average_precision_score([0] * 300 + [1] * 200, torch.cat((a, b)).numpy())
    assert aupr(a, b) == pytest.approx(expected, abs=1e-12)


def test_unusable_scores_are_named():
    with pytest.raises(ValueError, match="`ood_scores` must be finite, got 1 of 2"):
        aupr(torch.zeros(1), torch.tensor([0.0, torch.nan]))
