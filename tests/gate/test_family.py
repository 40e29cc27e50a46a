"""Many AUROCs at once: sums of tails, and the hurdle that keeps them at the level."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.gate.family import adjusted, false_alarms, hurdle, in_errors, power, upper_tail

Q = lambda z: 1 - NormalDist().cdf(z)
ERRORS = st.lists(st.just(0.0) | st.floats(1e-4, 0.05), min_size=1, max_size=20).map(np.array)


def test_upper_tail():
    assert upper_tail(np.array([0.0, 1.959964, np.inf, -np.inf])) == pytest.approx([0.5, 0.025, 0, 1], abs=1e-7)


def test_one_uncertain_auroc_is_tested_as_if_it_were_alone():
    assert adjusted(np.array([0.05]), np.array([0.02]), 0.02) == pytest.approx([1.2 * Q(2.5)])


def test_many_uncertain_ones_are_corrected_as_by_bonferroni():
    assert adjusted(np.full(10, 0.1), np.full(10, 0.03), 0.02) == pytest.approx(np.full(10, 12 * Q(10 / 3)))


def test_certain_ones_cost_nothing():
    errors = np.array([0.02, *[0.0] * 500, *[0.0005] * 500])  # 0.02 is 40 standard errors
    assert adjusted(np.array([0.05, *[0.0] * 1000]), errors, 0.02)[0] == pytest.approx(1.2 * Q(2.5))


def test_without_noise_a_drop_is_a_drop():
    assert in_errors(np.array([0.1, 0.0, -0.1]), np.zeros(3)).tolist() == [np.inf, 0, -np.inf]
    assert adjusted(np.array([0.1, 0.0]), np.zeros(2), 0.02)[0] == 0


@settings(deadline=None)
@given(ERRORS, st.floats(0, 0.1), st.floats(0.001, 0.5))
def test_the_hurdle_keeps_the_level_and_is_the_lowest(errors, margin, alpha):
    z = hurdle(errors, margin, alpha)
    assert false_alarms(z, errors, margin) <= alpha + 1e-6
    assert z == 0 or false_alarms(z - 1e-6, errors, margin) > alpha - 1e-6


@settings(deadline=None)
@given(ERRORS, st.floats(0.001, 0.1))
def test_p_is_below_alpha_exactly_beyond_the_hurdle(errors, margin):
    z = hurdle(errors, margin, 0.01)
    beyond, short = (adjusted((z + d) * errors, errors, margin) for d in (1e-6, -1e-3))
    assert (beyond[errors > 0] <= 0.01 + 1e-9).all()
    assert z < 1e-3 or (short[errors > 0] > 0.01).all()


def test_power_by_hand():
    # hurdles: 0.02 and 3 x 0.01 = 0.03; a true drop of 0.04 is 10 and 1 standard errors above them
    assert power(0.04, np.array([0.002, 0.01, 0.0]), 0.02, 3.0) == pytest.approx([1 - Q(10), 1 - Q(1), 1])
