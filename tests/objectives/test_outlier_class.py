import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from oodattack.objectives.outlier_class import outlier_class, outlier_log_odds, outlier_probability

DOUBLE = torch.float64


def logs(rows):
    return torch.tensor(rows, dtype=DOUBLE).log()


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
def test_by_hand(weight):
    # ID rows have probabilities 1/2 and 1/4 of the true class, the outlier 1/8 of the last:
    # (log 2 + log 4) / 2 + weight * log 8 = log 2 * (3 / 2 + 3 * weight)
    logits = logs([[4, 2, 2], [5, 2, 1]])
    found = outlier_class(logits, torch.tensor([0, 1]), logs([[3, 4, 1]]), weight=weight)
    assert found.item() == pytest.approx(math.log(2) * (1.5 + 3 * weight), rel=1e-12)


def test_is_plain_cross_entropy_over_both_where_weighted_by_their_numbers():
    draw = torch.Generator().manual_seed(0)
    logits, logits_aux = torch.randn(2, 6, 4, generator=draw, dtype=DOUBLE)
    y = torch.randint(3, (6,), generator=draw)
    both = cross_entropy(torch.cat([logits, logits_aux]), torch.cat([y, torch.full((6,), 3)]))
    assert outlier_class(logits, y, logits_aux, weight=1.0).item() == pytest.approx(2 * both.item(), rel=1e-12)


def test_probability_and_log_odds_by_hand():
    # probabilities of the last class 1/2 and 1/10: odds 1 and 1/9
    logits = logs([[1, 1, 2], [6, 3, 1]]) + 5  # a shift changes nothing
    torch.testing.assert_close(outlier_probability(logits), torch.tensor([0.5, 0.1], dtype=DOUBLE))
    torch.testing.assert_close(outlier_log_odds(logits), logs([1, 1 / 9]))


def test_a_score_rises_with_the_outlier_output_and_falls_with_the_others():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE).requires_grad_()
    for score in (outlier_probability, outlier_log_odds):
        (slope,) = torch.autograd.grad(score(logits).sum(), logits)
        assert (slope[:, -1] > 0).all() and (slope[:, :-1] < 0).all()


def test_log_odds_tell_apart_what_probabilities_round_to_the_same():
    logits = torch.tensor([[0.0, 0, 40], [0, 0, 50]])
    assert outlier_probability(logits).diff() == 0
    assert outlier_log_odds(logits).diff().item() == pytest.approx(10)


LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.tensor([0, 2])}, r"`y` must be in 0\.\.1, got 0\.\.2\. The last output is the outlier class"),
        ({"y": torch.tensor([-1, 0])}, r"`y` must be in 0\.\.1, got -1\.\.0"),
        ({"y": torch.tensor([0.0, 1.0])}, r"dtype torch.int64, got \(2,\) and torch.float32"),
        ({"logits": torch.zeros(2, 2)}, r"`logits` must have shape \(B, K \+ 1\)"),
        ({"logits": torch.zeros(0, 3)}, "`logits` must have at least one row"),
        ({"logits_aux": torch.zeros(1, 4)}, r"`logits_aux` must have shape \(M, 3\) with M >= 1, got \(1, 4\)"),
        ({"logits_aux": torch.zeros(0, 3)}, r"`logits_aux` must have shape \(M, 3\)"),
        ({"weight": -1.0}, r"`weight` must be >= 0, got -1"),
        ({"weight": math.nan}, r"`weight` must be >= 0, got nan"),
    ],
)
def test_wrong_use_is_named(change, message):
    arguments = {"logits": LOGITS, "y": torch.tensor([0, 1]), "logits_aux": LOGITS, "weight": 1.0} | change
    with pytest.raises(ValueError, match=message):
        outlier_class(**arguments)


@pytest.mark.parametrize("score", [outlier_probability, outlier_log_odds])
def test_scores_need_three_outputs(score):
    with pytest.raises(ValueError, match=r"`logits` must have shape \(B, K \+ 1\)"):
        score(torch.zeros(4, 2))
