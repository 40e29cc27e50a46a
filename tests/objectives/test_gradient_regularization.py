import pytest
import torch
from torch.nn.functional import relu

from oodattack.objectives.energy_margin import free_energy
from oodattack.objectives.gradient_regularization import gradient_penalty

DOUBLE = torch.float64


def smooth_energies(*, n_id=3, n_aux=5, seed=0):
    """Energies of a tanh net on two batches in one forward pass, whose rows do not interact; and its parameters."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=DOUBLE)
    weights = [normal(6, 7).requires_grad_(), normal(7, 4).requires_grad_()]
    x_id, x_aux = normal(n_id, 1, 2, 3).requires_grad_(), normal(n_aux, 1, 2, 3).requires_grad_()
    energy = free_energy((torch.cat([x_id, x_aux]).flatten(1) @ weights[0]).tanh() @ weights[1])
    return energy[:n_id], x_id, energy[n_id:], x_aux, weights


def middles(energy_id, energy_aux):
    """Margins that let some rows of each side through and keep others out."""
    both = torch.cat([energy_id, energy_aux]).detach()
    return {"margin_id": both.quantile(0.45).item(), "margin_aux": both.quantile(0.55).item()}


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        # E = 3 a + 4 b: every kept row has norm 5. Kept: 1 of 2 ID rows, 2 of 3 auxiliary rows.
        ("paper", 5 / 2 + 2 * 5 / 3),
        ("code", (5 / 2 + 2 * 5 / 3) / (2 + 3)),
    ],
)
def test_linear_energy_by_hand(scaling, expected):
    slope = torch.tensor([3.0, 4.0], dtype=DOUBLE)
    x_id = torch.tensor([[-10.0, 0.0], [0.0, 0.0]], dtype=DOUBLE, requires_grad=True)  # E = -30, 0
    x_aux = torch.tensor([[0.0, 5.0], [-10.0, 0.0], [0.0, 1.0]], dtype=DOUBLE, requires_grad=True)  # E = 20, -30, 4
    found = gradient_penalty(x_id @ slope, x_id, x_aux @ slope, x_aux, margin_id=-25, margin_aux=-7, scaling=scaling)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_paper_scaling_is_equation_3_row_by_row():
    energy_id, x_id, energy_aux, x_aux, _ = smooth_energies()
    margins = middles(energy_id, energy_aux)
    norm = lambda e, x, i: torch.autograd.grad(e[i], x, retain_graph=True)[0][i].norm().item()
    kept_id = [norm(energy_id, x_id, i) for i in range(3) if energy_id[i] <= margins["margin_id"]]
    kept_aux = [norm(energy_aux, x_aux, i) for i in range(5) if energy_aux[i] >= margins["margin_aux"]]
    assert 0 < len(kept_id) < 3 and 0 < len(kept_aux) < 5
    found = gradient_penalty(energy_id, x_id, energy_aux, x_aux, **margins, scaling="paper").item()
    assert found == pytest.approx(sum(kept_id) / 3 + sum(kept_aux) / 5, rel=1e-12)


def test_code_scaling_is_the_mean_norm_of_the_gradient_of_the_hinges():
    energy_id, x_id, energy_aux, x_aux, _ = smooth_energies()
    margins = middles(energy_id, energy_aux)
    s = relu(energy_aux - margins["margin_aux"]).mean() - relu(margins["margin_id"] - energy_id).mean()
    rows = torch.cat(torch.autograd.grad(s, (x_id, x_aux), retain_graph=True)).flatten(1).norm(dim=1)
    found = gradient_penalty(energy_id, x_id, energy_aux, x_aux, **margins, scaling="code").item()
    assert found == pytest.approx(rows.mean().item(), rel=1e-12)
    paper = gradient_penalty(energy_id, x_id, energy_aux, x_aux, **margins, scaling="paper").item()
    assert found == pytest.approx(paper / 8, rel=1e-12)  # N + M = 3 + 5


def test_rows_on_a_margin_count():
    x_id, x_aux = (torch.full((1, 1), v, dtype=DOUBLE, requires_grad=True) for v in (-25.0, -7.0))
    found = gradient_penalty(x_id[:, 0], x_id, x_aux[:, 0], x_aux, margin_id=-25, margin_aux=-7, scaling="paper")
    assert found.item() == 2


def test_gradient_for_training_matches_finite_differences():
    draw = torch.Generator().manual_seed(2)
    weights = [torch.randn(*shape, generator=draw, dtype=DOUBLE).requires_grad_() for shape in [(4, 5), (5, 3)]]
    pixels_id, pixels_aux = torch.randn(2, 3, 4, generator=draw, dtype=DOUBLE)
    energy = lambda x, inner, outer: free_energy((x @ inner).tanh() @ outer)
    margins = middles(energy(pixels_id, *weights), energy(pixels_aux, *weights))

    def loss(*parameters):
        x_id, x_aux = pixels_id.clone().requires_grad_(), pixels_aux.clone().requires_grad_()
        terms = energy(x_id, *parameters), x_id, energy(x_aux, *parameters), x_aux
        return gradient_penalty(*terms, **margins, scaling="paper")

    assert torch.autograd.gradcheck(loss, weights)
    assert all(g.abs().max() > 1e-3 for g in torch.autograd.grad(loss(*weights), weights))


@pytest.mark.parametrize("scaling", ["paper", "code"])
def test_parameters_get_a_zero_gradient_where_every_row_is_masked(scaling):
    *terms, weights = smooth_energies()
    found = gradient_penalty(*terms, margin_id=-1e6, margin_aux=1e6, scaling=scaling)
    assert found.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(found, weights))


def test_parameters_get_a_finite_gradient_where_some_rows_are_masked():
    *terms, weights = smooth_energies()
    found = gradient_penalty(*terms, **middles(terms[0], terms[2]), scaling="paper")
    assert all(g.isfinite().all() and g.any() for g in torch.autograd.grad(found, weights))


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda e: e.detach(), "`x_id` and `energy_id` must require gradients, got True and False"),
        (2, lambda e: e[:0], r"`energy_aux` must have shape \(N,\) with N >= 1"),
        (1, lambda x: x[:2], "`x_id` must have one row an energy, got 2 rows for 3 energies"),
        (3, lambda x: x.detach(), "`x_aux` and `energy_aux` must require gradients, got False and True"),
        (3, lambda x: x.clone(), "no path between them"),
    ],
)
def test_wrong_tensors_are_named(position, change, message):
    terms = list(smooth_energies()[:4])
    terms[position] = change(terms[position])
    with pytest.raises(ValueError, match=message):
        gradient_penalty(*terms, margin_id=-25, margin_aux=-7, scaling="paper")


def test_wrong_options_are_named():
    terms = smooth_energies()[:4]
    with pytest.raises(ValueError, match=r"`scaling` must be one of \('paper', 'code'\), got 'mean'"):
        gradient_penalty(*terms, margin_id=-25, margin_aux=-7, scaling="mean")
    with pytest.raises(ValueError, match="`margin_id` must be < `margin_aux`"):
        gradient_penalty(*terms, margin_id=-7, margin_aux=-25, scaling="paper")
