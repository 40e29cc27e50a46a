"""How far an input may move before its decision can change: Sharifi et al., "Gradient-Regularized Out-of-Distribution
Detection", ECCV 2024, arXiv:2404.12368, section 5."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def certified_radius(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    threshold: float,
    lipschitz: float | Tensor,
    ball: float | Tensor | None = None,
) -> Tensor:
    """eps* = min{eps, |gamma - S(x)| / L}, eq. (4) of Sharifi et al. 2024, for every row.

    The paper writes it for ID inputs, S(x) < gamma; outliers have the same with the sign turned, as it says. If
    |S(x') - S(x)| <= L ||x' - x|| for all x' no further than eps from x, no x' closer than eps* has the other decision.
    The norm is the one that L is for; an l2 constant times sqrt(D) is one for linf.

    The certificate is worth what L is: an upper bound over the ball, as a product of spectral norms is over the whole
    space. The norm of the gradient at x, which GReg penalises, is no such bound.

    Args:
        score: OOD scores of inputs, (B, ...) -> (B,), higher means more OOD, rows not influencing one another.
        x: inputs, shape (B, ...), values in [0, 1].
        threshold: gamma; inputs with a higher score are called OOD.
        lipschitz: L >= 0, in units of score over units of `x`: one number, or one a row, shape (B,).
        ball: eps >= 0, radius in input units within which L holds, one number or one a row; None if it holds
            everywhere. A bound that differs by row is local: it needs one.

    Returns:
        Radii, shape (B,), >= 0, in input units, without a graph. Exact but for rounding: score in float64.

    Raises:
        ValueError: L or eps that are negative or do not fit the batch, or a bound a row without `ball`.
        FloatingPointError: scores that are not finite.

    Differs from the paper: L = 0 is allowed, a score that is flat on the ball; the radius is then all of it.
    """
    if isinstance(lipschitz, Tensor) and lipschitz.ndim > 0 and ball is None:
        raise ValueError("`ball` must be given with a bound a row, got None. Say within which radius the bounds hold.")
    with torch.no_grad():
        values = score(x)
    if values.shape != x.shape[:1]:
        raise ValueError(
            f"`score` must return shape ({len(x)},), got {tuple(values.shape)}. Return one value an input."
        )
    if bad := int((~values.isfinite()).sum()):
        raise FloatingPointError(f"scores must be finite, got {bad} of {len(values)} that are not. Check the network.")
    return gap_radius((threshold - values).abs(), lipschitz=lipschitz, ball=math.inf if ball is None else ball)


def gap_radius(gap: Tensor, *, lipschitz: float | Tensor, ball: float | Tensor) -> Tensor:
    """min{eps, gap / L}, the right-hand side of eq. (4) of Sharifi et al. 2024; 0 where the gap is negative.

    Args:
        gap: gamma - S(x) for an ID input, S(x) - gamma for an outlier, shape (B,); negative where the decision is
            wrong, so that nothing can be certified.
        lipschitz: L >= 0, a number or shape (B,).
        ball: eps >= 0, a number or shape (B,), infinite if L holds everywhere.

    Returns:
        Shape (B,), in 0..eps.

    Raises:
        ValueError: L or eps that are negative or do not fit, or an infinite L.
    """
    bound, most = _at_least_0("lipschitz", lipschitz, gap), _at_least_0("ball", ball, gap)
    if bound.isinf().any():
        raise ValueError("`lipschitz` must be finite, got inf. Bound it on a smaller ball.")
    flat = torch.where(gap >= 0, math.inf, 0.0).to(gap)  # where L = 0 nothing changes within the ball
    return torch.minimum(most, torch.where(bound == 0, flat, gap.clamp(min=0) / bound))


def _at_least_0(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """`value` as a tensor that goes with `like` (B,)."""
    found = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if found.shape not in (torch.Size([]), like.shape):
        raise ValueError(
            f"`{name}` must be a number or have shape {tuple(like.shape)}, got {tuple(found.shape)}. "
            "Pass one value an input."
        )
    if not bool((found >= 0).all()):
        raise ValueError(f"`{name}` must be >= 0, got {found.min().item():.3g}. Neither slopes nor radii are negative.")
    return found
