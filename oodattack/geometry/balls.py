"""Norm balls and the [0, 1] box: sizes and Euclidean projections. One row of the batch, one ball.

Sources: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008; and Croce &
Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021, arXiv:2103.01208: an l1
attack loses strength when it projects onto the ball and then clamps, instead of projecting onto what both allow.

Sums run in float64 whatever the dtype of the input: over a large image a float32 norm is off by up to 1e-5 of itself,
which is more than a verifier forgives.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}  # a linear score changes by at most eps times this norm of its gradient


def norm_of(delta: Tensor, norm: str) -> Tensor:
    """||delta||_p of each row.

    Args:
        delta: shape (B, ...), B >= 0, floating point.
        norm: "linf", "l2" or "l1".

    Returns:
        Shape (B,), >= 0, dtype of `delta`.

    Raises:
        ValueError: `norm` is none of the three.
    """
    _check(norm=norm)
    return _size(delta.flatten(1), norm).squeeze(1).to(delta.dtype)


def project_linf(delta: Tensor, eps: float) -> Tensor:
    """argmin_u ||u - delta||_2 subject to ||u||_inf <= eps.

    Args:
        delta: shape (B, ...), B >= 0, finite.
        eps: radius, >= 0, input units.

    Returns:
        Same shape and dtype as `delta`. Rows inside the ball come back bit for bit.

    Raises:
        ValueError: `eps` is negative or NaN.
    """
    _check(eps=eps)
    return delta.clamp(-eps, eps)


def project_l2(delta: Tensor, eps: float) -> Tensor:
    """argmin_u ||u - delta||_2 subject to ||u||_2 <= eps, a shorter row. Arguments as `project_linf`."""
    _check(eps=eps)
    return _shorten(delta.flatten(1), eps, "l2").view_as(delta)


def project_l1(delta: Tensor, eps: float) -> Tensor:
    """argmin_u ||u - delta||_2 subject to ||u||_1 <= eps: sign(delta) max(|delta| - theta, 0).

    Source: Duchi et al. 2008, the sorting algorithm, applied to |delta|; O(D log D) for a row of D numbers.
    Arguments as `project_linf`.
    """
    _check(eps=eps)
    rows = delta.flatten(1)
    shrunk = rows.sign() * _shorten(_fit_l1(rows.abs(), None, eps), eps, "l1")
    return rows.where(_size(rows, "l1") <= eps, shrunk).view_as(delta)


PROJECT: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linf": project_linf,
    "l2": project_l2,
    "l1": project_l1,
}


def project_then_clamp(x_adv: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """clamp(x + PROJECT[norm](x_adv - x, eps), 0, 1): ball first, box second, once each.

    Always allowed, because clamping can only bring an input closer to an `x` of the box. The nearest allowed input for
    linf only; use `nearest_allowed` where that matters.

    Args:
        x_adv: shape (B, ...), B >= 0, finite.
        x: centres, same shape and dtype, values in [0, 1]; not checked here.
        eps: radius, >= 0, input units.
        norm: "linf", "l2" or "l1".

    Returns:
        Inputs in [0, 1], same shape. Sums are rounded towards `x`, so that the distance measured back from `x` is at
        most eps (1 + 1e-6) even where eps is small beside the pixels. Inputs that are allowed already come back bit
        for bit.

    Raises:
        ValueError: `norm` is none of the three, or `eps` is negative or NaN.
    """
    _check(norm=norm, eps=eps)
    delta = (x_adv - x).flatten(1)
    return _step(x_adv, x, PROJECT[norm](delta, eps), _size(delta, norm) <= eps)


def project_roughly(x_adv: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """`project_then_clamp` in the dtype of `x`: a few passes over memory, right up to rounding of a pixel.

    For the inside of a search; what a search returns goes through `project_then_clamp` once. For l1 it is
    `nearest_allowed`, since ball and clamp one after the other cost an l1 attack much of its radius.
    """
    if norm == "linf":
        return x_adv.clamp(x - eps, x + eps).clamp_(0, 1)
    if norm == "l1":
        return nearest_allowed(x_adv, x, eps, norm)
    delta = x_adv - x
    size = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp(min=eps)
    return delta.mul_(wide(eps / size, x)).add_(x).clamp_(0, 1)


def nearest_allowed(x_adv: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """argmin_u ||u - x_adv||_2 subject to ||u - x||_p <= eps and 0 <= u <= 1: nearest point of ball and box at once.

    With a = |x_adv - x| and w the way from x to the wall that x_adv lies towards, a pixel moves by min(a, w, eps) for
    linf, min(s a, w) for l2 and clamp(a - theta, 0, w) for l1. The one unknown, s or theta, makes the norm equal eps.
    It is found exactly, without iterating, by sorting the values at which a pixel meets a bound: O(D log D).

    Arguments, result and errors as `project_then_clamp`. Differs from Croce & Hein: covers l2 too.
    """
    _check(norm=norm, eps=eps)
    if norm == "linf":  # a box within a box: one after the other is the nearest point
        return project_then_clamp(x_adv, x, eps, norm)
    centre = x.flatten(1)
    delta = x_adv.flatten(1) - centre
    size, wall = delta.abs(), centre.where(delta < 0, 1 - centre)
    fitted = _shorten((_fit_l2 if norm == "l2" else _fit_l1)(size, wall, eps), eps, norm)
    return _step(x_adv, x, delta.sign() * fitted, _size(size.minimum(wall), norm) <= eps)


def _fit_l2(size: Tensor, wall: Tensor, eps: float) -> Tensor:
    """min(s a, w) with norm eps, for rows longer than eps when s = 1. Pixel i meets its wall at s = w_i / a_i."""
    meets, order = (wall / size).where(size > 0, torch.inf).sort(dim=1)
    walls, sizes = widest(wall.gather(1, order)).square(), widest(size.gather(1, order)).square()
    at_wall = walls.cumsum(1) - walls  # squared length of the pixels that stopped before this one
    moving = sizes.flip(1).cumsum(1).flip(1)  # squared length, at s = 1, of this pixel and those after it
    stopped = (at_wall + meets.square() * moving < eps**2).sum(dim=1, keepdim=True).clamp(max=size.shape[1] - 1)
    left, moving = (eps**2 - at_wall.gather(1, stopped)).clamp(min=0), moving.gather(1, stopped)
    scale = (left / moving).sqrt().where(moving > 0, 1)  # 0: rounding alone made the row longer than eps
    return (scale * size).to(size.dtype).minimum(wall)


def _fit_l1(size: Tensor, wall: Tensor | None, eps: float) -> Tensor:
    """clamp(a - theta, 0, w) with sum eps, for rows whose sum exceeds eps when theta = 0. No wall: w = infinity.

    As theta falls from max(a), pixel i starts to grow at a_i and stops at a_i - w_i, so the sum is piecewise linear.
    """
    bends, growing = size, torch.ones_like(size)
    if wall is not None:
        bends = torch.cat((size, size - wall), dim=1)
        growing = torch.cat((growing, -growing), dim=1)
    bends, order = bends.sort(dim=1, descending=True)
    growing = growing.gather(1, order)
    slope, offset = widest(growing).cumsum(1), widest(growing * bends).cumsum(1)  # the sum is offset - theta * slope
    piece = (offset - bends * slope < eps).sum(dim=1, keepdim=True).clamp(min=1) - 1
    theta = (offset.gather(1, piece) - eps) / slope.gather(1, piece).clamp(min=1)
    grown = (size - theta).clamp(min=0).to(size.dtype)
    return grown if wall is None else grown.minimum(wall)


def _step(x_adv: Tensor, x: Tensor, delta: Tensor, inside: Tensor) -> Tensor:
    """Add: x + delta in [0, 1], rounded towards `x`; rows `inside` (B, 1) are `x_adv`, clamped."""
    centre = x.flatten(1)
    moved = centre + delta
    too_far = (moved - centre).abs() > delta.abs()
    moved = moved.nextafter(centre).where(too_far, moved)
    return x_adv.flatten(1).where(inside, moved).clamp(0, 1).view_as(x)


def _shorten(rows: Tensor, eps: float, norm: str) -> Tensor:
    """Scale rows (B, D) that are longer than eps to length eps; leave the others as they are."""
    size = _size(rows, norm)
    return rows * (eps / size).where(size > eps, 1).to(rows.dtype)


def _size(rows: Tensor, norm: str) -> Tensor:
    """Norms of rows (B, D), shape (B, 1), in the dtype that sums run in."""
    wide = rows if norm == "linf" else widest(rows)
    size: Tensor = torch.linalg.vector_norm(wide, ORDER[norm], dim=1, keepdim=True)
    return size


def widest(rows: Tensor) -> Tensor:
    """float64, or float32 on Apple's MPS, which has no float64."""
    return rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)


def _check(*, norm: str = "linf", eps: float = 0.0) -> None:
    if norm not in ORDER:
        raise ValueError(f"`norm` must be one of {sorted(ORDER)}, got {norm!r}. Pick one of them.")
    if not eps >= 0:
        raise ValueError(f"`eps` must be >= 0, got {eps}. Give the radius in input units, such as 8/255.")


def wide(row: Tensor, x: Tensor) -> Tensor:
    """Reshape one number a row, (B,), so that it broadcasts over x (B, ...)."""
    return row.view(-1, *[1] * (x.ndim - 1))
