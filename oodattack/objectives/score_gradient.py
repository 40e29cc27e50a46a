"""The gradient term of GReg for any score: Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV
2024, arXiv:2404.12368, which adds it to outlier exposure and POEM in Table 4."""

from typing import Literal, get_args

import torch
from torch import Tensor

from oodattack.objectives.confident import uniform_divergence

Scaling = Literal["paper", "code"]


def score_gradient_penalty(
    score_id: Tensor,
    x_id: Tensor,
    score_aux: Tensor,
    x_aux: Tensor,
    *,
    keep_id: Tensor,
    keep_aux: Tensor,
    scaling: Scaling,
) -> Tensor:
    """mean_in ||1[keep] grad_x S||_2 + mean_aux ||1[keep] grad_x S||_2: eq. (3) of Sharifi et al. 2024 for any score S.

    Section 4.1 calls the exact loss a design choice and gives it for the energy alone. POEM is trained on the energy,
    so `gradient_penalty` is its term too; `uniform_gradient_penalty` is that of outlier exposure. With all rows kept
    and S = cross-entropy to the true class, on outliers to the outlier class and times its weight, this is the term
    that the authors' code has for networks with an outlier class.

    Args:
        score_id: S of `x_id`, shape (N,), N >= 1, with a graph back to it; rows must not influence one another.
        x_id: ID inputs, shape (N, ...), with `requires_grad`; the gradient is in units of S over units of `x_id`.
        score_aux: S of `x_aux`, shape (M,), M >= 1, with a graph back to it.
        x_aux: auxiliary outliers, shape (M, ...), with `requires_grad`.
        keep_id: rows of `x_id` that count, shape (N,), bool; in eq. (3) those that S gets right already.
        keep_aux: rows of `x_aux` that count, shape (M,), bool.
        scaling: "paper" is eq. (3); "code" is eq. (3) divided by N + M, as in the authors' code.

    Returns:
        Scalar >= 0. Can be differentiated once more; the norm of a zero gradient counts as flat. The caller applies
        the weight.

    Raises:
        ValueError: an unknown scaling, shapes that do not fit, or no graph from the inputs to the scores.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"`scaling` must be one of {get_args(Scaling)}, got {scaling!r}. Pick one of them.")
    _check("id", score_id, x_id, keep_id)
    _check("aux", score_aux, x_aux, keep_aux)
    s = (keep_id.to(score_id.dtype) * score_id).mean() + (keep_aux.to(score_aux.dtype) * score_aux).mean()
    gradients = torch.autograd.grad(s, (x_id, x_aux), create_graph=True, allow_unused=True)
    if any(gradient is None for gradient in gradients):
        raise ValueError(
            "scores must depend on `x_id` and `x_aux`, got no path between them. Compute them from these very tensors."
        )
    norms = torch.cat([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    # the means of eq. (3) are in s already
    return norms.sum() if scaling == "paper" else norms.mean()


def uniform_gradient_penalty(
    logits_id: Tensor,
    x_id: Tensor,
    logits_aux: Tensor,
    x_aux: Tensor,
    *,
    margin_id: float,
    margin_aux: float,
    scaling: Scaling,
) -> Tensor:
    """The term of GReg for outlier exposure, with S = -KL(U || softmax f) = log C + mean_c f_c - log sum_c exp(f_c).

    The outlier exposure loss is -mean_aux S + log C and is small already where KL <= `margin_aux`; ID inputs are
    detected where KL >= `margin_id`. Those rows are kept, as eq. (3) keeps the rows that the energy gets right.

    Args:
        logits_id: f of `x_id`, shape (N, C), N >= 1, C >= 2, with a graph back to it.
        x_id: ID inputs, shape (N, ...), with `requires_grad`.
        logits_aux: f of `x_aux`, shape (M, C), M >= 1, with a graph back to it.
        x_aux: auxiliary outliers, shape (M, ...), with `requires_grad`.
        margin_id: least divergence of an ID input that counts as detected, > `margin_aux`.
        margin_aux: largest divergence of an outlier that counts as detected, > 0.
        scaling: as in `score_gradient_penalty`.

    Returns:
        Scalar >= 0, as in `score_gradient_penalty`.

    Raises:
        ValueError: margins in the wrong order or not positive, or as in `score_gradient_penalty`.

    Differs from the paper: Table 4 reports the combination without its formula, nor is it in the authors' code. This
    is our reading.
    """
    if not 0 < margin_aux < margin_id:
        raise ValueError(
            f"`margin_aux` must be > 0 and < `margin_id`, got {margin_aux} and {margin_id}. "
            "ID inputs are further from uniform: swap the margins."
        )
    far_id, far_aux = uniform_divergence(logits_id), uniform_divergence(logits_aux)
    return score_gradient_penalty(
        -far_id,
        x_id,
        -far_aux,
        x_aux,
        keep_id=far_id >= margin_id,
        keep_aux=far_aux <= margin_aux,
        scaling=scaling,
    )


def _check(side: str, score: Tensor, x: Tensor, keep: Tensor) -> None:
    """Raise ValueError unless scores, inputs and marks are as many and the first two are in a graph."""
    if score.ndim != 1 or len(score) == 0 or len(x) != len(score):
        raise ValueError(
            f"`score_{side}` must have shape ({len(x)},), one value a row of `x_{side}`, got {tuple(score.shape)}. "
            "Pass inputs and scores of the same batch."
        )
    if keep.shape != score.shape or keep.dtype != torch.bool:
        raise ValueError(
            f"`keep_{side}` must have shape {tuple(score.shape)} and dtype torch.bool, got {tuple(keep.shape)} and "
            f"{keep.dtype}. Pass one mark a row."
        )
    if not (x.requires_grad and score.requires_grad):
        raise ValueError(
            f"`x_{side}` and `score_{side}` must require gradients, got {x.requires_grad} and {score.requires_grad}. "
            f"Call x_{side}.requires_grad_() before the forward pass, outside torch.no_grad()."
        )
