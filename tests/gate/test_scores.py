"""Scores by name: shared ones once, others apart."""

import numpy as np

from oodattack.gate.scores import Scores

ONE, OTHER = np.array([1.0, 2.0]), np.array([3.0, 4.0])


def test_sides_that_cells_share_are_kept_once_and_others_apart():
    scores = Scores()
    scores.clean("d", "id", ONE)
    for ood, rows in (("near", ONE), ("far", ONE), ("other", OTHER)):
        scores.clean("d", f"ood/{ood}", ONE)
        scores.side(("d", "lift", ood), "id", rows)
    assert scores.names(("d", "lift", "near")) == ("lift id", "clean ood/near")
    assert scores.names(("d", "lift", "far")) == ("lift id", "clean ood/far")
    assert scores.names(("d", "lift", "other")) == ("lift id against other", "clean ood/other")
    assert scores.vectors["d"]["lift id"] is ONE and scores.vectors["d"]["lift id against other"] is OTHER


def test_a_side_that_was_left_alone_has_its_clean_scores():
    scores = Scores()
    scores.side(("d", "hide", "near"), "ood/near", OTHER)
    assert scores.names(("d", "hide", "near")) == ("clean id", "hide ood/near")
    assert scores.names(("d", "unknown", "near")) == ("clean id", "clean ood/near")
