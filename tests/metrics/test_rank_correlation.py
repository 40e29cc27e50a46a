import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from oodattack.metrics import rank_correlation

LEVELS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)


def test_by_hand():
    # ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): centred (-1.5, 0, 0, 1.5) and (-1.5, -.5, .5, 1.5), 4.5 / sqrt(4.5 * 5)
    found = rank_correlation(torch.tensor([0.0, 3.0, 3.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx(4.5 / 22.5**0.5, rel=1e-14)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(pairs=LEVELS)
def test_it_is_that_of_scipy(pairs):
    a, b = torch.tensor(pairs).double().unbind(1)
    if len(a.unique()) == 1 or len(b.unique()) == 1:
        assert rank_correlation(a, b) == 0
    else:
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_the_same_order_is_1_and_never_more():
    for n in range(2, 400):
        a = torch.rand(n, generator=torch.Generator().manual_seed(n))
        assert 1 - 1e-12 < rank_correlation(a, a.exp()) <= 1
        assert -1 <= rank_correlation(a, -a) < -1 + 1e-12
