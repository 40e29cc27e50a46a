"""What an attacker can reach: a norm ball around each row, cut with the [0, 1] box, and linear functions on it."""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.geometry import wide

NORMS = ("linf", "l2")
ROUNDS = 4  # Newton-like steps on the multiplier of an l2 ball that the box cuts; the bound holds after any number


class Interval(NamedTuple):
    """Numbers that something lies between."""

    lower: Tensor
    upper: Tensor


class Ball(NamedTuple):
    """{x' : ||x' - x||_p <= eps, low <= x' <= high}, one a row.

    Attributes:
        x: centres, shape (B, ...), float64, in [low, high].
        eps: radii, shape (B,), >= 0, in the units of `x`.
        norm: "linf" or "l2".
        low: of the box; minus infinity without one.
        high: of the box; infinity without one.
    """

    x: Tensor
    eps: Tensor
    norm: str
    low: float
    high: float


def rows(ball: Ball, part: slice) -> Ball:
    """The ball of some of the rows."""
    return ball._replace(x=ball.x[part], eps=ball.eps[part])


def around(ball: Ball) -> Interval:
    """The smallest box that holds the ball, shapes (B, ...)."""
    eps = wide(ball.eps, ball.x)
    return Interval((ball.x - eps).clamp(min=ball.low), (ball.x + eps).clamp(max=ball.high))


def spread(ball: Ball, norm: str) -> Tensor:
    """Largest ||x' - x|| in another norm, shape (B,): eps, or eps sqrt(D) for the l2 length of a linf ball."""
    if (ball.norm, norm) == ("linf", "l2"):
        return _longest(ball).minimum(ball.eps * ball.x[0].numel() ** 0.5)
    return ball.eps


def _longest(ball: Ball) -> Tensor:
    low, high = around(ball)
    longest: Tensor = torch.linalg.vector_norm((high - ball.x).maximum(ball.x - low).flatten(1), dim=1)
    return longest


def least(ball: Ball, a: Tensor, *, closely: bool) -> Tensor:
    """min <a, x'> over the ball; for an l2 ball that the box cuts, a lower bound of it.

    Args:
        ball: B rows of D numbers.
        a: shape (B, S, D), or (1, S, D) where all rows have the same.
        closely: take the ball and the box together, where they are an l2 ball and a box, and not one at a time.

    Returns:
        Shape (B, S).
    """
    return inner(a, ball.x.flatten(1)) + least_change(ball, Interval(a, a), closely=closely)


def least_change(ball: Ball, slopes: Interval, *, closely: bool = False) -> Tensor:
    """min <a, x' - x> over the ball and over all a in an interval, or a lower bound of it.

    linf: sum_i min(0, a_i h_i, a_i l_i), where l <= x' - x <= h. l2: the same, or -eps ||a||_2, or the Lagrangian dual
    of both constraints, whichever is largest.

    Args:
        ball: B rows of D numbers.
        slopes: bounds of a, shapes (B, S, D) or (1, S, D).
        closely: as `least`, for an a that is known.

    Returns:
        Shape (B, S), <= 0.
    """
    low, high = around(ball)
    down, up = (low - ball.x).flatten(1)[:, None], (high - ball.x).flatten(1)[:, None]  # (B, 1, D)
    same = slopes.lower is slopes.upper
    if same:
        found = inner(slopes.lower.clamp(min=0), down[:, 0]) + inner(slopes.lower.clamp(max=0), up[:, 0])
    else:
        found = torch.minimum(slopes.lower.clamp(max=0) * up, slopes.upper.clamp(min=0) * down).sum(dim=2)
    if ball.norm == "linf":
        return found
    size = slopes.lower.abs() if same else slopes.lower.abs().maximum(slopes.upper.abs())
    length = torch.linalg.vector_norm(size, dim=2)
    found = found.maximum(-ball.eps[:, None] * length)
    return found.maximum(_dual(ball, slopes.lower, down, up)) if closely else found


def _dual(ball: Ball, a: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """max over a few m > 0 of sum_i min_d {a_i d + m d^2 / 2 : d in [down_i, up_i]} - m eps^2 / 2, shape (B, S)."""
    tiny = torch.finfo(a.dtype).tiny
    eps = ball.eps[:, None].clamp(min=1e-12)  # a larger ball, where it is smaller: nothing overflows
    m = (torch.linalg.vector_norm(a, dim=2) / eps).clamp(min=tiny)
    best = torch.full_like(m, -torch.inf)
    for _ in range(ROUNDS):
        free = -a / m[..., None]
        d = free.maximum(down).minimum(up)
        value = (a * d + m[..., None] * d.square() / 2).sum(dim=2) - m * eps.square() / 2
        best = best.maximum(value)
        held = torch.linalg.vector_norm(torch.where(d == free, 0.0, d), dim=2).minimum(0.999 * eps)
        left = torch.linalg.vector_norm(torch.where(d == free, a, 0.0), dim=2)
        m = (left / (eps.square() - held.square()).sqrt()).clamp(min=tiny)
    return best


def inner(a: Tensor, x: Tensor) -> Tensor:
    """<a, x> per row: (B or 1, S, D) and (B, D) -> (B, S)."""
    if len(a) == 1:
        return x @ a[0].mT
    return torch.einsum("bsd,bd->bs", a, x)
