"""Energy margin loss: eq. (1) of Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV 2024,
arXiv:2404.12368, taken there from Liu et al., "Energy-based Out-of-distribution Detection", 2020, arXiv:2010.03759."""

from torch import Tensor
from torch.nn.functional import relu


def free_energy(logits: Tensor) -> Tensor:
    """E = -log sum_c exp(f_c), S_En in section 3.2 of Sharifi et al. 2024.

    Args:
        logits: shape (B, C), unbounded.

    Returns:
        Energies, shape (B,), unbounded; higher means more OOD.
    """
    return -logits.logsumexp(dim=1)


def energy_margin(energy_id: Tensor, energy_aux: Tensor, *, margin_id: float, margin_aux: float) -> Tensor:
    """mean_in relu(E - m_in)^2 + mean_aux relu(m_aux - E)^2, eq. (1) of Sharifi et al. 2024.

    Pushes ID energies below `margin_id` and auxiliary ones above `margin_aux`; rows beyond their margin cost nothing.
    The caller applies the weight, lambda_S in the paper, 0.1 in the authors' code.

    Args:
        energy_id: energies of ID inputs, shape (N,), N >= 1.
        energy_aux: energies of auxiliary outliers, shape (M,), M >= 1.
        margin_id: m_in, below `margin_aux`, in units of energy; -25 in the authors' code.
        margin_aux: m_aux; -7 in the authors' code.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: energies that are empty or not 1-D, or margins in the wrong order.

    Differs from the paper: nothing.
    """
    check_energies(energy_id, energy_aux, margin_id=margin_id, margin_aux=margin_aux)
    return relu(energy_id - margin_id).square().mean() + relu(margin_aux - energy_aux).square().mean()


def check_energies(energy_id: Tensor, energy_aux: Tensor, *, margin_id: float, margin_aux: float) -> None:
    """Raise ValueError unless both energies are non-empty vectors and `margin_id` < `margin_aux`."""
    for name, energy in (("energy_id", energy_id), ("energy_aux", energy_aux)):
        if energy.ndim != 1 or len(energy) == 0:
            raise ValueError(
                f"`{name}` must have shape (N,) with N >= 1, got {tuple(energy.shape)}. Pass one energy a row."
            )
    if not margin_id < margin_aux:
        raise ValueError(
            f"`margin_id` must be < `margin_aux`, got {margin_id} and {margin_aux}. "
            "ID inputs have the lower energy: swap the margins."
        )
