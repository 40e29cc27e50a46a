"""Areas and standard errors against loops over all pairs, values by hand, and repeated draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.gate.delong import Placed, hanley_mcneil, mid_ranks, placed
from oodattack.metrics import auroc

SCORES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)  # few values: many ties


def brute(id_scores, ood_scores) -> Placed:
    wins = np.array([[1.0 if o > i else 0.5 if o == i else 0.0 for o in ood_scores] for i in id_scores])
    return Placed(wins.mean(axis=1), wins.mean(axis=0))


@settings(deadline=None)
@given(SCORES, SCORES)
def test_every_row_stands_where_counting_pairs_puts_it(id_scores, ood_scores):
    found, known = placed(np.array(id_scores), np.array(ood_scores)), brute(id_scores, ood_scores)
    assert found.id == pytest.approx(known.id, abs=1e-12)
    assert found.ood == pytest.approx(known.ood, abs=1e-12)
    assert found.id.mean() == pytest.approx(found.ood.mean())
    assert found.auroc == pytest.approx(auroc(torch.tensor(id_scores), torch.tensor(ood_scores)))


@settings(deadline=None)
@given(st.lists(SCORES.filter(lambda v: len(v) >= 4).map(lambda v: v[:4]), min_size=2, max_size=5))
def test_rows_of_a_batch_are_ranked_alone(vectors):
    together = mid_ranks(np.array(vectors))
    assert together.tolist() == [mid_ranks(np.array(v)).tolist() for v in vectors]


def test_mid_ranks_by_hand():
    assert mid_ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]  # (3 + 4 + 5) / 3
    assert mid_ranks(np.array([7.0, 7.0])).tolist() == [1.5, 1.5]
    assert mid_ranks(np.array([7.0])).tolist() == [1]


def test_error_by_hand():
    found = placed(np.array([0.0, 2.0]), np.array([1.0, 3.0, 2.0]))
    assert found.id.tolist() == pytest.approx([1, 0.5])  # above 0: all three; above 2: one, and half of a tie
    assert found.ood.tolist() == pytest.approx([0.5, 1, 0.75])
    assert found.auroc == pytest.approx(0.75)
    # var(1, 1/2) / 2 = (1/8) / 2, var(1/2, 1, 3/4) / 3 = (1/16) / 3
    assert found.error == pytest.approx((1 / 16 + 1 / 48) ** 0.5)


def test_error_of_a_difference_by_hand():
    old = placed(np.array([0.0, 2.0]), np.array([1.0, 3.0]))  # id (1, 1/2), ood (1/2, 1)
    new = placed(np.array([0.0, 2.0]), np.array([1.0, -1.0]))  # id (1/2, 0), ood (1/2, 0)
    lost = old.minus(new)  # id (1/2, 1/2), ood (0, 1)
    assert lost.auroc == pytest.approx(0.5)
    assert lost.error == pytest.approx((0 + 0.5 / 2) ** 0.5)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_error_of_a_difference_is_what_repetition_shows(correlation):
    draw, times = np.random.default_rng(0), 2000
    same, one, two = (draw.standard_normal((times, 150)) for _ in range(3))
    old, new = (correlation**0.5 * same + (1 - correlation) ** 0.5 * own for own in (one, two))
    sides = [placed(v[:, :90], v[:, 90:] + 1) for v in (old, new)]
    lost = sides[0].minus(sides[1])
    assert lost.error.mean() == pytest.approx(lost.auroc.std(), rel=0.08)
    if correlation == 0:
        assert lost.error.mean() == pytest.approx(np.hypot(sides[0].error, sides[1].error).mean(), rel=0.02)


def test_equal_scores_differ_by_nothing():
    v = np.random.default_rng(0).standard_normal(30)
    lost = placed(v[:20], v[20:]).minus(placed(np.exp(v[:20]), np.exp(v[20:])))  # another scale, the same order
    assert (lost.auroc, lost.error) == (0, 0)


def test_separated_sets_have_no_error_and_one_row_none_of_its_own():
    assert placed(np.arange(3.0), np.arange(3.0) + 9).error == 0
    assert placed(np.arange(1.0), np.arange(3.0) - 1).error == pytest.approx((0.25 / 3) ** 0.5)  # ood (0, 1/2, 1)


def test_hanley_mcneil():
    # A = 0.8, N = M = 10: Q1 = 2/3, Q2 = 1.28 / 1.8; (0.16 + 9 (0.0267 + 0.0711)) / 100
    assert hanley_mcneil(0.8, 10, 10) == pytest.approx(((0.16 + 9 * (2 / 3 - 0.64 + 1.28 / 1.8 - 0.64)) / 100) ** 0.5)
    assert hanley_mcneil(0.0, 5, 5) == hanley_mcneil(1.0, 5, 5) == 0
    assert hanley_mcneil(0.7, 20, 50) == pytest.approx(hanley_mcneil(0.3, 50, 20))  # sides and sign exchanged
    draw = np.random.default_rng(0)  # scores that are exponential, for which it is exact
    areas = placed(draw.exponential(1, (3000, 40)), draw.exponential(4, (3000, 60))).auroc
    assert hanley_mcneil(0.8, 40, 60) == pytest.approx(areas.std(), rel=0.05)  # P(ood > id) = 4 / (1 + 4)
