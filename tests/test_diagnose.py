"""The verdict table by hand."""

import pytest

from oodattack.diagnose import Indicators, failures, verdict

# beside 0.9 after the attack: every rival was weaker, or stronger by no more than luck
FINE = Indicators(
    white_box=True, zero_gradient_share=0.0, clean_best_share=0.0, random_auroc=0.95, full_box_auroc=0.0,
    rising_share=1.0, unfinished_drop=0.0, white_box_auroc=0.9, black_box_auroc=0.95, smaller_eps_auroc=0.95,
    transfer_auroc=0.95, restart_spread=0.0,
)  # fmt: skip


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


def test_below_chance_asks_for_the_sign():
    assert verdict(0.39, 0.3, FINE)[1].endswith("(AUROC 0.390); a higher score must mean more OOD: is its sign turned?")
    assert verdict(0.49, 0.4, FINE)[1] == "no better than chance before any attack (AUROC 0.490)"


def test_below_chance_says_so_where_the_score_changes_from_call_to_call():
    assert verdict(0.39, 0.3, FINE._replace(repeatable=False))[1].endswith("; the score changes from call to call")


WRONG = {
    "black box": ({"white_box": False}, "the search used no gradient"),
    "random score": ({"repeatable": False}, "changes from call to call"),
    "batch": ({"row_independent": False}, "depends on its batch"),
    "gradient": ({"gradient_trouble": "no gradient"}, "the gradient of the score is not to be relied on: no gradient"),
    "plateaus": ({"misled_share": 0.21}, "more than its gradient explains or leads to, for 21% of pairs"),
    "jumps": ({"unexplained_share": 0.11}, "it runs otherwise than its gradient says, for 11% of pairs"),
    "another goal": ({"other_goal": "the logits"}, "the search was after the logits, and may succeed without moving"),
    "zero gradients": ({"zero_gradient_share": 0.11}, "11% of gradients were zero"),
    "not finite": ({"non_finite_share": 0.001}, "0.1% of queries were not finite"),
    "stuck": ({"clean_best_share": 0.51}, "nothing beat the clean input on 51% of rows"),
    "not rising": ({"rising_share": 0.74}, "the loss rose above its first value on 74% of rows only"),
    "unfinished": (
        {"unfinished_drop": 0.011},
        "more queries would lower it further (the second half took AUROC",
    ),
    "unsettled": (
        {"unsettled_auroc": 0.875},
        "at the pace of its second half, ten times as many queries could take it to AUROC 0.875",
    ),
    "shortfall": ({"shortfall": "takes a single step"}, "the search takes a single step"),
    "restarts": ({"restart_spread": 0.06}, "restarts disagree (by AUROC 0.060)"),
    "bad surrogate": ({"surrogate_rank_correlation": 0.89}, "rank correlation 0.89"),
    "random is stronger": ({"random_auroc": 0.899}, "random search was stronger (AUROC 0.899)"),
    "black box is stronger": ({"black_box_auroc": 0.88}, "a black-box search was stronger (AUROC 0.880 against 0.900)"),
    "transfer is stronger": ({"transfer_auroc": 0.88}, "a search on another score was stronger (AUROC 0.880"),
    "less is more": ({"smaller_eps_auroc": 0.88}, "a smaller radius was stronger (AUROC 0.880 against 0.900)"),
    "a rival is stronger": (
        {"rival_auroc": 0.88},
        "another search within the same limits was stronger (AUROC 0.880 against 0.900)",
    ),
    "no sanity run": ({"full_box_auroc": None}, "no sanity-full-box run"),
    "moves toward ID": (
        {"toward_lead": 0.011},
        "moves straight toward the other set were stronger (by AUROC 0.011 on the rows moved)",
    ),
    "denied": (
        {"denied_auroc": 0.875},
        "what differences show and its gradient does not could take it to AUROC 0.875",
    ),
    "sanity run failed": ({"full_box_auroc": 0.51}, "with the whole box the search still left AUROC 0.510"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
def test_each_indicator_alone_forbids_holds(changes, words):
    found = FINE._replace(**changes)
    decision, reason = verdict(1.0, 0.9, found)
    assert decision == "inconclusive"
    assert words in reason
    assert len(failures(1.0, 0.9, found)) == 1
    assert verdict(1.0, 0.7, found)[0] == "broken"  # a drop is a drop, however it was found


def test_every_indicator_can_forbid_holds():
    # white_box_auroc is what rivals are compared with; the others lead to a verdict of their own
    others = {"white_box_auroc", "accepted_before", "accepted_after", "id_against_id"}
    assert {name for changes, _ in WRONG.values() for name in changes} == set(Indicators._fields) - others


EDGES = {
    "slope": {"misled_share": 0.2},
    "jumps": {"unexplained_share": 0.1},
    "accepts no more": {"accepted_before": 0.2, "accepted_after": 0.39},
    "zero gradients": {"zero_gradient_share": 0.1},
    "stuck": {"clean_best_share": 0.5},
    "rising": {"rising_share": 0.75},
    "unfinished": {"unfinished_drop": 0.01},
    "fewer queries were luckier": {"unfinished_drop": -0.2},
    "unsettled": {"unsettled_auroc": 0.876},
    "restarts": {"restart_spread": 0.05},
    "surrogate": {"surrogate_rank_correlation": 0.9},
    "random": {"random_auroc": 0.9},
    "black box": {"black_box_auroc": 0.891},
    "transfer": {"transfer_auroc": 0.891},
    "smaller radius": {"smaller_eps_auroc": 0.891},
    "sanity": {"full_box_auroc": 0.5},
    "moves": {"toward_lead": 0.01},
    "denied": {"denied_auroc": 0.876},
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=EDGES)
def test_on_the_edge_is_no_failure(changes):
    assert failures(1.0, 0.9, FINE._replace(**changes)) == []
    assert verdict(1.0, 0.9, FINE._replace(**changes))[0] == "holds"


def test_what_was_not_measured_is_no_reason_but_for_the_sanity_run():
    assert failures(1.0, 0.9, Indicators(white_box=True, full_box_auroc=0.0)) == []
    assert len(failures(1.0, 0.9, Indicators(white_box=True))) == 1


@pytest.mark.parametrize("rival", ["black_box_auroc", "transfer_auroc", "random_auroc"])
def test_a_suite_is_not_beaten_by_its_members_but_its_gradient_search_may_be(rival):
    # the suite's number is its blind member's, 0.90; the gradient search beside it left 0.95
    found = FINE._replace(white_box_auroc=0.95, **{rival: 0.90})
    assert verdict(1.0, 0.90, found)[0] == "inconclusive"
    assert verdict(1.0, 0.90, found._replace(white_box_auroc=0.905))[0] == "holds"


def test_without_a_white_box_number_rivals_are_compared_with_the_attacked_one():
    found = FINE._replace(white_box_auroc=None, black_box_auroc=0.92)
    assert failures(1.0, 0.9, found) == []
    assert "black-box" in failures(1.0, 0.94, found)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row_independent": False}, "the score of a row depends on its batch"),
        ({"repeatable": False}, "the score changes from call to call"),
    ],
)
def test_a_drop_of_a_score_that_hangs_on_the_call_is_told_with_it(changes, words):
    assert verdict(1.0, 0.7, FINE._replace(**changes)) == ("broken", f"AUROC 1.000 fell to 0.700; {words}")


def test_a_search_for_the_threshold_is_judged_by_what_it_accepts():
    found = FINE._replace(accepted_before=0.2, accepted_after=0.4)  # 60 % rejected of 80 %: three quarters
    reason = "the deployed threshold accepts 40% of OOD inputs, 20% before the attack"
    assert verdict(1.0, 0.9, found) == ("broken", reason)


def test_where_the_threshold_accepts_everything_there_is_nothing_to_break():
    decision, reason = verdict(0.9, 0.9, FINE._replace(accepted_before=1.0, accepted_after=1.0))
    assert (decision, reason) == ("inconclusive", "the deployed threshold accepts every OOD input before any attack")


@pytest.mark.parametrize(("clean", "attacked"), [(0.49, 0.4), (0.52, 0.3), (0.52, 0.52)])
def test_of_id_images_against_id_images_nothing_can_be_said(clean, attacked):
    decision, reason = verdict(clean, attacked, FINE._replace(id_against_id=True))
    assert decision == "inconclusive" and "ID images" in reason


def test_all_reasons_are_named():
    worst = Indicators(
        False, 1.0, 1.0, 1.0, 0.0, 0.1, 1.0, False, False, 99.0, 1.0, "no gradient", 0.0, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1,
        other_goal="the logits", toward_lead=0.1, denied_auroc=0.1, unsettled_auroc=0.1,
            shortfall="takes a single step",
    )  # fmt: skip
    assert verdict(1.0, 0.9, worst)[1].count("; ") == 22  # 23 reasons
