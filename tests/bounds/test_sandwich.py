"""From bounds of scores to bounds of AUROC: against every attack there is, on sets so small that all can be tried."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import DOUBLE, images, random_net

from oodattack import detectors
from oodattack.bounds import Certified, ScoreBounds, Uncertified, certify, guarantee, undecided_share, worst_scores
from oodattack.metrics import auroc, fpr_at_95_id_tpr, fpr_at_95_ood_tpr, id_threshold

SCORES = st.lists(st.tuples(*[st.integers(-3, 3)] * 3).map(sorted), min_size=1, max_size=2)


def bounds(rows):
    return ScoreBounds(*torch.tensor(rows, dtype=DOUBLE).T.contiguous())


def choices(of, attacked):
    """The score vectors of rows that are each at their lower or at their upper end, or all clean."""
    if not attacked:
        return [of.clean]
    return [torch.stack(each) for each in product(*torch.stack([of.lower, of.upper], dim=1))]


def still(of):
    """Bounds of rows that nobody attacks."""
    return ScoreBounds(of.clean, of.clean, of.clean)


@settings(deadline=None, max_examples=30)
@given(id_rows=SCORES, ood_rows=SCORES, sides=st.sampled_from(["hide", "raise", "both"]))
def test_no_attack_leaves_less_than_the_guarantee_and_one_leaves_just_that(id_rows, ood_rows, sides):
    of_id, of_ood = bounds(id_rows), bounds(ood_rows)
    found = guarantee(still(of_id) if sides == "hide" else of_id, still(of_ood) if sides == "raise" else of_ood)
    left = [
        (auroc(i, o), fpr_at_95_id_tpr(i, o), fpr_at_95_ood_tpr(i, o), (o <= id_threshold(of_id.clean, tpr=0.95)))
        for i in choices(of_id, sides != "hide")
        for o in choices(of_ood, sides != "raise")
    ]
    assert found.auroc == min(each[0] for each in left)
    assert found.fpr_at_95_id_tpr == max(each[1] for each in left)
    assert found.fpr_at_95_ood_tpr == max(each[2] for each in left)
    assert found.fpr_deployed == max(each[3].double().mean().item() for each in left)


def test_by_hand():
    # ID scores in [0, 2] and [1, 4], clean 1 and 2; OOD in [2, 5] and [3, 6], clean 4 and 5
    of_id, of_ood = bounds([(0, 1, 2), (1, 2, 4)]), bounds([(2, 4, 5), (3, 5, 6)])
    assert guarantee(still(of_id), of_ood).auroc == (1 + 1 / 2 + 2) / 4  # 2, 3 against 1, 2
    assert guarantee(of_id, still(of_ood)).auroc == (2 - 1 / 2 + 2) / 4  # 4, 5 against 2, 4
    assert guarantee(of_id, of_ood).auroc == (1 / 2 + 1) / 4  # 2, 3 against 2, 4
    worst = worst_scores(of_id, of_ood)
    assert undecided_share(worst, (of_id.clean, of_ood.clean)) == 3 / 4  # all four left in order, one certified
    assert undecided_share(worst, worst) == 0.0


def test_infinite_bounds_certify_nothing_and_break_nothing():
    of_id = bounds([(0.0, 1.0, float("inf"))])
    of_ood = bounds([(-float("inf"), 4.0, 5.0), (3.0, 5.0, 6.0)])
    assert guarantee(still(of_id), of_ood).auroc == 0.5
    assert guarantee(of_id, of_ood).auroc == 0.0


def test_both_sides_are_worse_than_either():
    net = random_net("basic", 1)
    x_id, x_ood = images(6, 2), 0.5 * images(7, 3)
    detector = detectors.Energy(net)
    found = {s: certify(detector, x_id, x_ood, norm="linf", eps=0.01, sides=s) for s in ("hide", "raise", "both")}
    assert all(isinstance(each, Certified) for each in found.values())
    left = {s: each.guarantee.auroc for s, each in found.items()}
    with torch.no_grad():
        clean = auroc(detector(x_id), detector(x_ood))
    assert left["both"] <= min(left["hide"], left["raise"]) <= clean
    assert left["both"] < clean
    assert torch.allclose(found["hide"].id.upper, found["hide"].id.clean, rtol=1e-8, atol=1e-8)  # not attacked
    assert (found["hide"].ood.upper - found["hide"].ood.lower > 1e-3).all()


def test_what_has_no_bounds_says_why():
    net, x = random_net("basic", 1), images(2, 2)
    found = certify(detectors.GradNorm(net), x, x, norm="linf", eps=0.1, sides="hide")
    assert isinstance(found, Uncertified) and "got GradNorm" in found.reason
    found = certify(detectors.Energy(net), x, x, norm="l1", eps=0.1, sides="hide")
    assert found == Uncertified("no bounds for the norm l1")
    with pytest.raises(ValueError, match="`sides` must be one of hide, raise, both, got 'match'"):
        certify(detectors.Energy(net), x, x, norm="linf", eps=0.1, sides="match")
    with pytest.raises(ValueError, match="`attacked` must have the rows of `worst`, got 1 and 1 for 2 and 1"):
        undecided_share((torch.ones(2), torch.ones(1)), (torch.ones(1), torch.ones(1)))
