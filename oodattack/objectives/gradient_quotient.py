"""Gradient quotient (GQ): Jevnisek & Avidan, "Learning ODIN", BMVC 2022."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Operand = Literal["logits", "softmax"]
Denominator = Literal["norm-of-sum", "sum-of-norms"]


def gradient_quotient(
    logits: Tensor,
    y: Tensor,
    x: Tensor,
    *,
    operand: Operand = "logits",
    denominator: Denominator = "norm-of-sum",
) -> Tensor:
    """GQ = ||grad_x o_y||_1 / sum_{j != y} ||grad_x o_j||_1, the factor of lambda in eq. (7) of Jevnisek & Avidan 2022.

    Numerator and denominator are summed over the batch before they are divided. The operand o is f(x) or softmax f(x);
    the denominator is as above ("sum-of-norms", C + 1 backward passes) or ||grad_x sum_{j != y} o_j||_1 ("norm-of-sum",
    two backward passes, never larger). The caller adds lambda * GQ to the cross-entropy; minimising GQ makes the
    true class' gradient small beside that of the others.

    Args:
        logits: f(x), shape (B, C), C >= 2 (>= 3 with "softmax"), unbounded, with a graph back to `x`.
        y: true labels, shape (B,), integers in 0..C-1.
        x: inputs, shape (B, ...), with `requires_grad`.
        operand: "logits" (authors' code) or "softmax" (paper).
        denominator: "norm-of-sum" (authors' code) or "sum-of-norms" (paper).

    Returns:
        Scalar >= 0; at most 1 with "softmax". Can be differentiated once more, for training.

    Raises:
        ValueError: an unknown option, the pair softmax and norm-of-sum, too few classes, labels or shapes that do not
            fit, no graph from `x` to `logits`, or a denominator of 0.
        FloatingPointError: the gradients are not finite.

    Differs from the paper: the default is the authors' code; softmax with sum-of-norms is eq. (7) as printed, with the
    batch summed within each norm (the paper writes a single input). eq. (6) has the predicted class in place of y.
    Differs from the authors' code: softmax with norm-of-sum is refused, since its value is 1 for every network.
    """
    _check(logits, y, x, operand, denominator)
    return _quotient(logits if operand == "logits" else logits.softmax(dim=1), y, x, denominator=denominator)


def _quotient(values: Tensor, y: Tensor, x: Tensor, *, denominator: Denominator) -> Tensor:
    """The quotient of any operand `values` (B, C), degenerate ones included."""
    true = one_hot(y, values.shape[1]).to(values.dtype)
    top = _gradient_norm((true * values).sum(), x)
    rest = (1 - true) * values  # rows b with y_b = j are 0 in column j
    if denominator == "norm-of-sum":
        bottom = _gradient_norm(rest.sum(), x)
    else:
        bottom = torch.stack([_gradient_norm(column.sum(), x) for column in rest.unbind(dim=1)]).sum()
    if not (top.isfinite() & bottom.isfinite()):
        raise FloatingPointError(
            f"gradients of the logits must be finite, got norms {top.item():.3g} (true class) and {bottom.item():.3g} "
            "(other classes). Lower the learning rate."
        )
    if bottom == 0:
        raise ValueError(
            "the denominator of the gradient quotient must be > 0, got 0: no output of a class other than `y` changes "
            "with `x`. Look for dead units or a saturated softmax, or take operand='logits'."
        )
    return top / bottom


def _gradient_norm(value: Tensor, x: Tensor) -> Tensor:
    """||grad_x value||_1 over the whole batch tensor, with a graph."""
    (gradient,) = torch.autograd.grad(value, x, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("`logits` must depend on `x`, got no path between them. Compute them from this very tensor.")
    return gradient.abs().sum()


def _check(logits: Tensor, y: Tensor, x: Tensor, operand: str, denominator: str) -> None:
    """Raise ValueError unless the arguments of `gradient_quotient` fit together."""
    for name, value, known in (("operand", operand, Operand), ("denominator", denominator, Denominator)):
        if value not in get_args(known):
            raise ValueError(f"`{name}` must be one of {get_args(known)}, got {value!r}. Pick one of them.")
    if operand == "softmax" and denominator == "norm-of-sum":
        raise ValueError(
            "`denominator` must be 'sum-of-norms' with operand 'softmax', got 'norm-of-sum'. The softmax of the other "
            "classes sums to 1 - softmax_y, so both gradients have the same size and the quotient is 1 whatever the "
            "network. Take operand='logits', or denominator='sum-of-norms'."
        )
    if logits.ndim != 2 or len(logits) == 0 or len(x) != len(logits):
        raise ValueError(
            f"`logits` must have shape (B, C) with a row for each of the {len(x)} inputs, got {tuple(logits.shape)}. "
            "Pass logits and inputs of the same batch."
        )
    if logits.shape[1] < 2:
        raise ValueError(f"`logits` must have C >= 2 classes, got {logits.shape[1]}. Use a classifier of two or more.")
    if operand == "softmax" and logits.shape[1] == 2:
        raise ValueError(
            "`logits` must have C >= 3 classes with operand 'softmax', got 2. Two softmax outputs sum to 1, so their "
            "gradients have the same size and the quotient is 1 whatever the network. Take operand='logits'."
        )
    if y.shape != logits.shape[:1] or y.dtype != torch.int64:
        raise ValueError(
            f"`y` must have shape ({len(logits)},) and dtype torch.int64, got {tuple(y.shape)} and {y.dtype}. "
            "Pass one class index a row."
        )
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError(
            f"`y` must be in 0..{logits.shape[1] - 1}, got {y.min().item()}..{y.max().item()}. Renumber the classes."
        )
    if not (x.requires_grad and logits.requires_grad):
        raise ValueError(
            f"`x` and `logits` must require gradients, got {x.requires_grad} and {logits.requires_grad}. "
            "Call x.requires_grad_() before the forward pass, outside torch.no_grad()."
        )
