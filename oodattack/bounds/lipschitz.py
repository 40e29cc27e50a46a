"""Lipschitz constants of scores on a ball, for the radius of eq. (4) of Sharifi et al., ECCV 2024, arXiv:2404.12368."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oodattack.bounds.affine import Affine, transposed
from oodattack.bounds.ball import rows
from oodattack.bounds.network import network
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.reach import Reach
from oodattack.bounds.score_bounds import ROWS, ball_of, in_float64
from oodattack.bounds.slopes import local_lipschitz
from oodattack.detectors import MSP, Confident, Energy, JemPx, JemPy, MaxLogit, OEScore, OutlierClass

Functions = Callable[[int], Tensor]  # number of logits K -> (S, K)


def _logits(k: int) -> Tensor:
    return torch.eye(k, dtype=torch.float64)


def _centred(k: int) -> Tensor:
    return torch.eye(k, dtype=torch.float64) - 1 / k


def _against_last(k: int) -> Tensor:
    each = torch.eye(k, dtype=torch.float64)
    return each[:-1] - each[-1:]


def _pairs(k: int) -> Tensor:
    each, (first, second) = torch.eye(k, dtype=torch.float64), torch.triu_indices(k, k, offset=1)
    return each[first] - each[second]


# The gradient of the score is `factor` times a convex combination of the gradients of <a_s, f>, or of their negatives.
# 1/4 is the largest derivative of the sigmoid that 1 - max softmax is of the log-odds.
FUNCTIONS: dict[type, tuple[Functions, float]] = {
    **dict.fromkeys((MaxLogit, Energy, JemPx), (_logits, 1.0)),
    **dict.fromkeys((MSP, JemPy, Confident), (_pairs, 0.25)),
    OEScore: (_centred, 1.0),
    OutlierClass: (_against_last, 1.0),
}


def lipschitz_bounds(detector: Any, x: Tensor, *, norm: str, eps: float | Tensor, box: bool = True) -> Tensor:
    """L with |score(x') - score(x'')| <= L ||x' - x''|| for all x', x'' in the ball around x, a row each.

    The smaller one of two: the largest gradient that intervals allow in the ball, and the product of the layers'
    spectral norms, times sqrt(D) for linf. `oodattack.objectives.certified_radius` makes the radius of eq. (4) of it,
    with `ball=eps`. The bounds of `score_bounds` are better, and this is what the paper's certificate needs.

    Args:
        detector: one of the kinds in `FUNCTIONS`, in eval mode.
        x: images, shape (N, C, H, W), in [0, 1].
        norm: "linf" or "l2".
        eps: radius, >= 0: one number, or one a row.
        box: x' stays in [0, 1].

    Returns:
        Shape (N,), >= 0, float64, on the CPU.

    Raises:
        ValueError: as `score_bounds`.
    """
    ball = ball_of(x, norm, eps, box)
    if type(detector) not in FUNCTIONS:
        names = ", ".join(sorted(kind.__name__ for kind in FUNCTIONS))
        raise NoBounds(
            f"`detector` must have a Lipschitz constant, got {type(detector).__name__}. Take one of {names}."
        )
    exact = in_float64(detector)
    functions, factor = FUNCTIONS[type(detector)]
    found = []
    with torch.no_grad():
        own = network(exact.net, tuple(x.shape[1:]), deep=True)
        for i in range(0, len(x), ROWS):
            on_ball = own.on(rows(ball, slice(i, i + ROWS)))
            a = functions(on_ball.values[own.at].shape[1]).to(ball.x)
            near = local_lipschitz(on_ball, a, own.at)
            found.append(near.minimum(_anywhere(on_ball, a, own.at)).amax(dim=1))
    return (factor * torch.cat(found) * (1 + 1e-9)).cpu()


def _anywhere(found: Reach, a: Tensor, at: int) -> Tensor:
    """Constants of <a_s, h> in the norm of the ball, shape (S,), the last layer merged."""
    last = found.graph.steps[at - 1]
    size: Tensor = torch.linalg.vector_norm(a, dim=1) * found.constants[at]
    if isinstance(last.does, Affine):
        parts = transposed(last.does.exact, a.view(1, len(a), *found.graph.shape(at)))
        merged = zip(parts, last.inputs, strict=True)
        size = size.minimum(
            sum(torch.linalg.vector_norm(p[0].flatten(1), dim=1) * found.constants[i] for p, i in merged)
        )
    return size * (found.ball.x[0].numel() ** 0.5 if found.ball.norm == "linf" else 1.0)
