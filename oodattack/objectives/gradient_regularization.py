"""Gradient regularization (GReg): Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV 2024,
arXiv:2404.12368."""

from typing import get_args

from torch import Tensor

from oodattack.objectives.energy_margin import check_energies
from oodattack.objectives.score_gradient import Scaling, score_gradient_penalty


def gradient_penalty(
    energy_id: Tensor,
    x_id: Tensor,
    energy_aux: Tensor,
    x_aux: Tensor,
    *,
    margin_id: float,
    margin_aux: float,
    scaling: Scaling,
) -> Tensor:
    """mean_in ||1[E <= m_in] grad_x E||_2 + mean_aux ||1[E >= m_aux] grad_x E||_2, eq. (3) of Sharifi et al. 2024.

    Only rows that the energy margin loss leaves alone are penalised. All gradients come from one backward pass through
    s = mean_in 1[.] E + mean_aux 1[.] E: a row's gradient of s is its term of eq. (3), mean included, as long as rows
    do not influence one another. Batch statistics (batch norm in train mode) add their cross-terms, as they do in the
    authors' code. The caller applies the weight, lambda_gradS in the paper, 1 in the authors' code.

    Args:
        energy_id: energies of `x_id`, shape (N,), N >= 1, with a graph back to it.
        x_id: ID inputs, shape (N, ...), with `requires_grad`; the gradient is in units of energy over units of `x_id`.
        energy_aux: energies of `x_aux`, shape (M,), M >= 1, with a graph back to it.
        x_aux: auxiliary outliers, shape (M, ...), with `requires_grad`.
        margin_id: m_in, below `margin_aux`, in units of energy.
        margin_aux: m_aux.
        scaling: "paper" is eq. (3); "code" is eq. (3) divided by N + M, as in the authors' code.

    Returns:
        Scalar >= 0. Can be differentiated once more; the norm of a zero gradient counts as flat.

    Raises:
        ValueError: an unknown scaling, energies or margins refused by `energy_margin`, counts that differ, or no graph
            from the inputs to the energies.

    Differs from the paper: nothing with "paper".
    Differs from the authors' code: "code" reads the energies it is given, theirs come from a second forward pass; rows
    exactly on a margin count, as printed in eq. (3). In training the gradient is by pixels in [0, 1], theirs by
    normalised inputs: with mean and std the term is 1 / std times theirs, about 4 for natural images.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"`scaling` must be one of {get_args(Scaling)}, got {scaling!r}. Pick one of them.")
    check_energies(energy_id, energy_aux, margin_id=margin_id, margin_aux=margin_aux)
    _check_graph("id", energy_id, x_id)
    _check_graph("aux", energy_aux, x_aux)
    return score_gradient_penalty(
        energy_id,
        x_id,
        energy_aux,
        x_aux,
        keep_id=energy_id <= margin_id,
        keep_aux=energy_aux >= margin_aux,
        scaling=scaling,
    )


def _check_graph(side: str, energy: Tensor, x: Tensor) -> None:
    """Raise ValueError unless rows are as many as energies and both are in a graph."""
    if len(x) != len(energy):
        raise ValueError(
            f"`x_{side}` must have one row an energy, got {len(x)} rows for {len(energy)} energies. "
            "Pass inputs and energies of the same batch."
        )
    if not (x.requires_grad and energy.requires_grad):
        raise ValueError(
            f"`x_{side}` and `energy_{side}` must require gradients, got {x.requires_grad} and {energy.requires_grad}. "
            f"Call x_{side}.requires_grad_() before the forward pass, outside torch.no_grad()."
        )
