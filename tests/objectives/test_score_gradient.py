import math

import pytest
import torch

from oodattack.objectives.confident import uniform_divergence
from oodattack.objectives.energy_margin import free_energy
from oodattack.objectives.gradient_regularization import gradient_penalty
from oodattack.objectives.score_gradient import score_gradient_penalty, uniform_gradient_penalty

DOUBLE = torch.float64


def smooth(seed=0, n_id=3, n_aux=5):
    """Logits of a small network with a graph to inputs and weights."""
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=draw, dtype=DOUBLE).requires_grad_()
    x_id, x_aux, inner, outer = rand(n_id, 1, 2, 2), rand(n_aux, 1, 2, 2), rand(4, 6), rand(6, 3)
    logits = lambda x: (x.flatten(1) @ inner).tanh() @ outer
    return logits(x_id), x_id, logits(x_aux), x_aux, (inner, outer)


@pytest.mark.parametrize(("scaling", "expected"), [("paper", 5 / 2 + 2 * 13 / 3), ("code", (5 / 2 + 2 * 13 / 3) / 5)])
def test_linear_scores_by_hand(scaling, expected):
    # gradients (3, 4) of norm 5 on ID and (5, 12) of norm 13 on outliers; 1 of 2 and 2 of 3 rows are kept
    x_id, x_aux = (
        torch.zeros(2, 2, dtype=DOUBLE, requires_grad=True),
        torch.zeros(3, 2, dtype=DOUBLE, requires_grad=True),
    )
    scores = x_id @ torch.tensor([3.0, 4], dtype=DOUBLE), x_aux @ torch.tensor([5.0, 12], dtype=DOUBLE)
    keep = {"keep_id": torch.tensor([False, True]), "keep_aux": torch.tensor([True, True, False])}
    found = score_gradient_penalty(scores[0], x_id, scores[1], x_aux, **keep, scaling=scaling)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scaling", ["paper", "code"])
def test_on_energies_it_is_the_penalty_of_greg(scaling):
    logits_id, x_id, logits_aux, x_aux, _ = smooth()
    energies = free_energy(logits_id), free_energy(logits_aux)
    low, high = torch.cat(energies).detach().quantile(torch.tensor([0.45, 0.55], dtype=DOUBLE)).tolist()
    keep = {"keep_id": energies[0] <= low, "keep_aux": energies[1] >= high}
    general = score_gradient_penalty(energies[0], x_id, energies[1], x_aux, **keep, scaling=scaling)
    greg = gradient_penalty(energies[0], x_id, energies[1], x_aux, margin_id=low, margin_aux=high, scaling=scaling)
    assert general.item() == greg.item() > 0


def test_two_classes_with_uniform_divergence_by_hand():
    # f = (a x, 0): KL = log(1 + e^{ax}) - ax / 2 - log 2, slope a (p - 1/2) with p = sigmoid(a x).
    # a = 2: x = log 3 / 2 gives p = 3/4, slope 1/2, KL = log(4/3) / 2 = 0.144; x = 0 is flat with KL 0;
    # x = 3 log 3 / 2 gives odds 27, p = 27/28, slope 2 * 13/28, KL = log 28 - log(27) / 2 - log 2 = 0.991
    x_id = torch.tensor([[1.5 * math.log(3)], [0.0]], dtype=DOUBLE, requires_grad=True)
    x_aux = torch.tensor([[0.5 * math.log(3)], [1.5 * math.log(3)], [0.0]], dtype=DOUBLE, requires_grad=True)
    logits = lambda x: torch.cat([2 * x, torch.zeros_like(x)], dim=1)
    arguments = logits(x_id), x_id, logits(x_aux), x_aux
    found = uniform_gradient_penalty(*arguments, margin_id=0.5, margin_aux=0.2, scaling="paper")
    # kept: ID row 0 (0.991 >= 0.5); outlier rows 0 and 2 (0.144 and 0 <= 0.2)
    assert found.item() == pytest.approx((26 / 28) / 2 + (1 / 2) / 3, abs=1e-12)


def test_rows_that_the_outlier_exposure_loss_still_works_on_are_left_alone():
    logits_id, x_id, logits_aux, x_aux, weights = smooth()
    far = uniform_divergence(logits_aux).max().item()
    nothing = uniform_gradient_penalty(
        logits_id, x_id, logits_aux + 5 * torch.eye(5, 3), x_aux, margin_id=100.0, margin_aux=1e-6, scaling="paper"
    )
    assert nothing.item() == 0
    everything = uniform_gradient_penalty(
        logits_id, x_id, logits_aux, x_aux, margin_id=far + 2, margin_aux=far + 1, scaling="paper"
    )
    slopes = (
        torch.autograd.grad(uniform_divergence(logits_aux).sum(), x_aux, retain_graph=True)[0].flatten(1).norm(dim=1)
    )
    assert everything.item() == pytest.approx(slopes.mean().item(), rel=1e-12)  # no ID row is that far
    assert all(g.any() for g in torch.autograd.grad(everything, weights))


def test_gradient_for_training_matches_finite_differences():
    draw = torch.Generator().manual_seed(2)
    weights = [torch.randn(*shape, generator=draw, dtype=DOUBLE).requires_grad_() for shape in [(4, 5), (5, 3)]]
    pixels_id, pixels_aux = torch.randn(2, 3, 4, generator=draw, dtype=DOUBLE)

    def loss(inner, outer):
        x_id, x_aux = pixels_id.clone().requires_grad_(), pixels_aux.clone().requires_grad_()
        logits = lambda x: (x @ inner).tanh() @ outer
        arguments = logits(x_id), x_id, logits(x_aux), x_aux
        return uniform_gradient_penalty(*arguments, margin_id=0.9, margin_aux=0.8, scaling="paper")

    assert loss(*weights) > 0
    assert torch.autograd.gradcheck(loss, weights)


def test_the_loss_of_an_outlier_class_is_a_score_too():
    # s = CE_in + 0.5 CE_aux: its gradient is that of the whole loss, row by row
    logits_id, x_id, logits_aux, x_aux, _ = smooth()
    ce = lambda logits, y: torch.nn.functional.cross_entropy(logits, y, reduction="none")
    y = torch.tensor([0, 1, 0])
    ce_id, ce_aux = ce(logits_id, y), 0.5 * ce(logits_aux, torch.full((5,), 2))
    everything = {"keep_id": torch.ones(3, dtype=torch.bool), "keep_aux": torch.ones(5, dtype=torch.bool)}
    found = score_gradient_penalty(ce_id, x_id, ce_aux, x_aux, **everything, scaling="code")
    whole = torch.autograd.grad(ce_id.mean() + ce_aux.mean(), (x_id, x_aux), retain_graph=True)
    assert found.item() == pytest.approx(torch.cat(whole).flatten(1).norm(dim=1).mean().item(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaling": "mean"}, r"`scaling` must be one of \('paper', 'code'\), got 'mean'"),
        ({"keep_id": torch.ones(3)}, r"`keep_id` must have shape \(3,\) and dtype torch.bool, got \(3,\) and"),
        ({"keep_aux": torch.ones(4, dtype=torch.bool)}, r"`keep_aux` must have shape \(5,\)"),
        ({"score_id": torch.zeros(2)}, r"`score_id` must have shape \(3,\), one value a row of `x_id`, got \(2,\)"),
        ({"score_aux": torch.zeros(5)}, "`x_aux` and `score_aux` must require gradients, got True and False"),
        ({"score_aux": torch.zeros(5, requires_grad=True)}, "got no path between them"),
    ],
)
def test_wrong_use_is_named(change, message):
    logits_id, x_id, logits_aux, x_aux, _ = smooth()
    arguments = {
        "score_id": free_energy(logits_id),
        "x_id": x_id,
        "score_aux": free_energy(logits_aux),
        "x_aux": x_aux,
        "keep_id": torch.ones(3, dtype=torch.bool),
        "keep_aux": torch.ones(5, dtype=torch.bool),
        "scaling": "paper",
    }
    with pytest.raises(ValueError, match=message):
        score_gradient_penalty(**arguments | change)


@pytest.mark.parametrize(("margin_id", "margin_aux"), [(0.1, 0.2), (1.0, 0.0)])
def test_wrong_margins_are_named(margin_id, margin_aux):
    with pytest.raises(ValueError, match="`margin_aux` must be > 0 and < `margin_id`"):
        uniform_gradient_penalty(*smooth()[:4], margin_id=margin_id, margin_aux=margin_aux, scaling="paper")
