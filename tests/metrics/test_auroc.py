import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from oodattack.metrics.auroc import auroc, tie_share

FEW_LEVELS = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def by_sklearn(id_scores, ood_scores):
    return roc_auc_score([0] * len(id_scores) + [1] * len(ood_scores), torch.cat((id_scores, ood_scores)).numpy())


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        ([2.0, 3.0], [0.0, 1.0], 0.0),
        ([0.0, 2.0], [1.0, 3.0], 3 / 4),  # 3 of 4 pairs in order
        ([1.0, 1.0], [1.0, 1.0], 1 / 2),  # ties count half
        ([0.0, 1.0], [1.0], 3 / 4),  # one pair in order, one tie
        ([97.0, 98.0], [98.5, 99.0], 1.0),  # a sigmoid would make all four equal
        ([0.0], [-0.0], 1 / 2),
    ],
)
def test_auroc_by_hand(id_scores, ood_scores, expected):
    assert auroc(torch.tensor(id_scores), torch.tensor(ood_scores)) == expected


@settings(derandomize=True, deadline=None, max_examples=50)
@given(a=FEW_LEVELS, b=FEW_LEVELS)
def test_auroc_with_many_ties_is_that_of_sklearn(a, b):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert auroc(a, b) == pytest.approx(by_sklearn(a, b), abs=1e-12)
    assert auroc(a, b) == pytest.approx(1 - auroc(b, a), abs=1e-12)
    assert tie_share(a, b) == (a[:, None] == b).double().mean().item()


def test_large_scores_keep_their_order():
    g = torch.Generator().manual_seed(0)
    a, b = 20 + 35 * torch.rand(80, generator=g), 25 + 35 * torch.rand(90, generator=g)
    assert auroc(a, b) == pytest.approx(by_sklearn(a, b), abs=1e-12)
    assert auroc(20 + torch.rand(50, generator=g), 59 + torch.rand(50, generator=g)) == 1.0


@pytest.mark.parametrize("increasing", [torch.exp, torch.atan, lambda v: 1e6 * v - 3, lambda v: v**3])
def test_auroc_is_unchanged_by_increasing_maps(increasing):
    g = torch.Generator().manual_seed(1)
    a = torch.randn(50, dtype=torch.float64, generator=g)
    b = 1 + torch.randn(70, dtype=torch.float64, generator=g)
    assert auroc(increasing(a), increasing(b)) == auroc(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_any_float_dtype_will_do(dtype):
    a, b = torch.tensor([0.0, 2.0], dtype=dtype).requires_grad_(), torch.tensor([1.0, 3.0], dtype=dtype)
    assert auroc(a, b) == 3 / 4


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        (torch.empty(0), torch.zeros(1), "`id_scores` must hold at least one score, got none"),
        (torch.zeros(1), torch.empty(0), "`ood_scores` must hold at least one score, got none"),
        (torch.tensor([0.0, torch.nan, torch.inf]), torch.zeros(1), "`id_scores` must be finite, got 2 of 3"),
        (torch.zeros(1), torch.tensor([-torch.inf]), "`ood_scores` must be finite, got 1 of 1"),
        (torch.zeros(2, 1), torch.zeros(1), r"`id_scores` must be 1-D, got shape \(2, 1\)"),
    ],
)
@pytest.mark.parametrize("metric", [auroc, tie_share])
def test_unusable_scores_are_named(metric, id_scores, ood_scores, message):
    with pytest.raises(ValueError, match=message):
        metric(id_scores, ood_scores)


@pytest.mark.parametrize("kind", [[1.0, 2.0], torch.zeros(2, dtype=torch.complex64)])
def test_other_kinds_are_refused(kind):
    with pytest.raises(TypeError, match="`ood_scores` must be a tensor of real numbers"):
        auroc(torch.zeros(2), kind)


def test_columns_of_a_matrix_cost_no_warning():
    scores = torch.rand(20, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= auroc(scores[:10, 1], scores[10:, 1]) <= 1
