"""The verdict table by hand."""

import pytest

from oodattack.diagnose import Indicators, failures, verdict

FINE = Indicators(
    white_box=True, zero_gradient_share=0.0, clean_best_share=0.0, random_auroc=0.95, full_box_auroc=0.0
)  # and 0.9 after the attack: random search was weaker


@pytest.mark.parametrize(
    ("clean", "attacked", "expected"),
    [
        (1.0, 0.0, "broken"),
        (1.0, 0.875, "broken"),  # 0.5 + 0.75 (1 - 0.5), three quarters of the advantage: just broken
        (1.0, 0.88, "holds"),
        (0.8, 0.72, "broken"),  # 0.5 + 0.75 (0.8 - 0.5) = 0.725
        (0.8, 0.73, "holds"),
        (0.9, 0.9, "holds"),
        (0.5, 0.5, "broken"),  # nothing to lose
        (0.3, 0.9, "broken"),
    ],
)
def test_verdict_by_hand(clean, attacked, expected):
    assert verdict(clean, attacked, FINE)[0] == expected


WRONG = {
    "black box": ({"white_box": False}, "the search used no gradient"),
    "random score": ({"repeatable": False}, "changes from call to call"),
    "batch": ({"row_independent": False}, "depends on its batch"),
    "zero gradients": ({"zero_gradient_share": 0.11}, "11% of gradients were zero"),
    "not finite": ({"non_finite_share": 0.001}, "0.1% of queries were not finite"),
    "stuck": ({"clean_best_share": 0.51}, "nothing beat the clean input on 51% of rows"),
    "bad surrogate": ({"surrogate_rank_correlation": 0.89}, "rank correlation 0.89"),
    "random is stronger": ({"random_auroc": 0.89}, "random search was stronger (AUROC 0.890)"),
    "no sanity run": ({"full_box_auroc": None}, "no sanity-full-box run"),
    "sanity run failed": ({"full_box_auroc": 0.51}, "with the whole box the search still left AUROC 0.510"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
def test_each_indicator_alone_forbids_holds(changes, words):
    found = FINE._replace(**changes)
    decision, reason = verdict(1.0, 0.9, found)
    assert decision == "inconclusive"
    assert words in reason
    assert len(failures(0.9, found)) == 1
    assert verdict(1.0, 0.7, found)[0] == "broken"  # a drop is a drop, however it was found


EDGES = {
    "zero gradients": {"zero_gradient_share": 0.1},
    "stuck": {"clean_best_share": 0.5},
    "surrogate": {"surrogate_rank_correlation": 0.9},
    "random": {"random_auroc": 0.9},
    "sanity": {"full_box_auroc": 0.5},
    "not measured": {"zero_gradient_share": None, "clean_best_share": None, "random_auroc": None},
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=EDGES)
def test_on_the_edge_is_no_failure(changes):
    assert failures(0.9, FINE._replace(**changes)) == []
    assert verdict(1.0, 0.9, FINE._replace(**changes))[0] == "holds"


def test_all_reasons_are_named():
    worst = Indicators(False, 1.0, 1.0, 1.0, 0.0, 0.1, 1.0, False, False)
    assert verdict(1.0, 0.9, worst)[1].count("; ") == 8  # 9 reasons
