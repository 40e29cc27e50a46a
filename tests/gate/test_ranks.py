"""Scores as ranks: the same ROC curves in a tenth of the space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.gate.delong import placed
from oodattack.gate.ranks import Ranked, ranked

VECTORS = st.lists(st.floats(-5, 5).map(lambda v: round(v, 1)), min_size=1, max_size=9).map(np.array)


@settings(deadline=None)
@given(VECTORS, VECTORS, VECTORS)
def test_no_auroc_changes(a, b, c):
    found = ranked({"a": a, "b": b, "c": c})
    for x, y in (("a", "b"), ("a", "c"), ("c", "b")):
        known, here = placed(dict(a=a, b=b, c=c)[x], dict(a=a, b=b, c=c)[y]), placed(found.vector(x), found.vector(y))
        assert here.id.tolist() == known.id.tolist() and here.ood.tolist() == known.ood.tolist()


@pytest.mark.parametrize(("n", "bits"), [(2**16, 16), (2**16 + 1, 32)])
def test_as_many_bits_as_ranks_need(n, bits):
    found = ranked({"a": np.arange(n, dtype=float) * 0.1, "b": np.zeros(1)})
    assert found.bits == bits
    assert found.vector("a").tolist() == list(range(n)) and found.vector("b").tolist() == [0]


def test_bytes_by_hand():
    assert ranked({"a": np.array([7.0, -1.0]), "b": np.array([7.0])}).rows == {"a": "AQAAAA==", "b": "AQA="}


@pytest.mark.parametrize("words", ["AQ==", "!", "AQAA"])
def test_half_a_rank_is_refused(words):
    with pytest.raises(ValueError, match="`scores` must hold ranks of 'a'"):
        Ranked(bits=16, rows={"a": words}).vector("a")
