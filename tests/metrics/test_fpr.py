import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from oodattack.metrics.fpr import (
    fpr_at_95_id_tpr,
    fpr_at_95_ood_tpr,
    fpr_at_id_tpr,
    fpr_at_ood_tpr,
    id_threshold,
)

TO_20 = [float(i) for i in range(1, 21)]
FEW_LEVELS = st.lists(st.integers(-3, 3), min_size=1, max_size=25)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        (TO_20, [18.0, 19.0, 20.0, 21.0], 2 / 4),  # 19 of 20 are <= 19; 18 and 19 pass as ID
        ([0.0] * 18 + [1.0] * 2, [0.0, 1.0, 1.0, 2.0], 3 / 4),  # 18 of 20 at 0 are too few: t = 1, and ties pass
        ([0.0] * 19 + [1.0], [0.0, 1.0, 1.0, 2.0], 1 / 4),  # 19 of 20 are enough: t = 0
        ([5.0], [4.0, 6.0], 1 / 2),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
    ],
)
def test_id_positive_by_hand(id_scores, ood_scores, expected):
    assert fpr_at_95_id_tpr(torch.tensor(id_scores), torch.tensor(ood_scores)) == expected


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], TO_20, 2 / 4),  # 19 of 20 are >= 2; 2 and 3 are flagged
        ([0.0, 1.0, 1.0, 2.0], [1.0] * 2 + [2.0] * 18, 3 / 4),  # 18 of 20 at 2 are too few: t = 1, and ties are flagged
        ([0.0, 1.0, 1.0, 2.0], [1.0] + [2.0] * 19, 1 / 4),  # 19 of 20 are enough: t = 2
        ([4.0, 6.0], [5.0], 1 / 2),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
    ],
)
def test_ood_positive_by_hand(id_scores, ood_scores, expected):
    assert fpr_at_95_ood_tpr(torch.tensor(id_scores), torch.tensor(ood_scores)) == expected


def test_the_two_conventions_differ():
    # two ID inputs of 20 look far out: one must be accepted, and takes every OOD input along
    id_scores, ood_scores = torch.tensor([0.0] * 18 + [9.0] * 2), torch.linspace(5, 6, 20)
    assert fpr_at_95_id_tpr(id_scores, ood_scores) == 1.0
    assert fpr_at_95_ood_tpr(id_scores, ood_scores) == 2 / 20
    # and the mirror image: negating and swapping the sides swaps the conventions
    assert fpr_at_95_id_tpr(-ood_scores, -id_scores) == 2 / 20
    assert fpr_at_95_ood_tpr(-ood_scores, -id_scores) == 1.0


@settings(derandomize=True, deadline=None, max_examples=50)
@given(a=FEW_LEVELS, b=FEW_LEVELS, percent=st.integers(1, 100))
def test_both_are_the_first_roc_point_that_reaches_the_tpr(a, b, percent):
    a, b = torch.tensor(a).double(), torch.tensor(b).double()
    both, is_ood = torch.cat((a, b)).numpy(), [0] * len(a) + [1] * len(b)
    fpr, tpr, _ = roc_curve(is_ood, both, drop_intermediate=False)
    assert fpr_at_ood_tpr(a, b, tpr=percent / 100) == pytest.approx(fpr[tpr >= percent / 100 - 1e-12][0])
    fpr, tpr, _ = roc_curve(is_ood, -both, pos_label=0, drop_intermediate=False)
    assert fpr_at_id_tpr(a, b, tpr=percent / 100) == pytest.approx(fpr[tpr >= percent / 100 - 1e-12][0])


@settings(derandomize=True, deadline=None, max_examples=50)
@given(scores=FEW_LEVELS, percent=st.integers(1, 100))
def test_threshold_is_the_smallest_that_accepts_enough(scores, percent):
    scores = torch.tensor(scores).double()
    enough = lambda t: 100 * int((scores <= t).sum()) >= percent * len(scores)
    t = id_threshold(scores, tpr=percent / 100)
    assert t in scores and enough(t)
    assert not any(enough(lower) for lower in scores[scores < t])


def test_tpr_is_read_as_a_decimal():
    # 0.07 * 100 = 7.000000000000001 in binary, which would ask for 8 scores
    assert id_threshold(torch.arange(1.0, 101.0), tpr=0.07) == 7.0
    assert id_threshold(torch.arange(1.0, 101.0), tpr=1) == 100.0


def test_threshold_divides_float32_scores_exactly():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert int((scores <= id_threshold(scores, tpr=0.95)).sum()) == 950


@pytest.mark.parametrize("tpr", [0.0, 95, -0.1, float("nan")])
def test_tpr_out_of_range_is_named(tpr):
    with pytest.raises(ValueError, match=r"`tpr` must be in \(0, 1\], got"):
        id_threshold(torch.zeros(3), tpr=tpr)


@pytest.mark.parametrize("metric", [fpr_at_95_id_tpr, fpr_at_95_ood_tpr])
def test_unusable_scores_are_named(metric):
    with pytest.raises(ValueError, match="`id_scores` must be finite, got 1 of 1"):
        metric(torch.tensor([torch.nan]), torch.zeros(1))
    with pytest.raises(ValueError, match="`ood_scores` must hold at least one score"):
        metric(torch.zeros(1), torch.empty(0))
