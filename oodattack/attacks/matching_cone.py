"""Where a point may still move: the tangent cone of norm ball and box, and the part of a gradient that lies in it.

Source: first-order conditions of min f(v) subject to ||v - x||_2 <= eps and 0 <= v <= 1, as in Nocedal & Wright,
"Numerical Optimization", 2nd edition, 2006, chapter 12. With delta = v - x the Lagrangian's gradient is
L = grad + pull delta, pull >= 0; a pixel at a wall that L pushes into the wall is held there.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.geometry import norm_of

ON_BALL = 1e-5  # a row is on the ball when its norm is within this share of eps


class Cone(NamedTuple):
    """Tangent space of the constraints that bind at a point. D numbers a row."""

    down: Tensor  # (B, D) projection of -grad: the direction of steepest descent that the constraints leave
    free: Tensor  # (B, D) False for a pixel held at a wall
    normal: Tensor  # (B, D) unit normal of the ball among the free pixels; zero where the ball does not bind
    pull: Tensor  # (B,) multiplier of the l2 ball, >= 0, in units of grad per pixel; 0 for other balls
    bound: Tensor  # (B,) the ball binds: descent would leave it (l2), or the point is on it (linf, l1)

    def along(self, v: Tensor) -> Tensor:
        """Project rows v (B, K, D) onto the tangent space."""
        v = v * self.free[:, None]
        return v - (v @ self.normal[:, :, None]) * self.normal[:, None]


def tangent_cone(point: Tensor, x: Tensor, grad: Tensor, *, eps: float, norm: str) -> Cone:
    """Split the constraints at `point` into those that bind and those that do not, for the descent of one function.

    Held pixels depend on `pull` and `pull` on the held pixels: three rounds, starting from pull = 0.

    Args:
        point: allowed inputs, shape (B, D).
        x: centres, same shape.
        grad: of the function to minimise, same shape.
        eps: radius, input units.
        norm: "l2", or "linf", whose ball is a box as well; for "l1" only the box counts, and the projection has to
            do the rest.
    """
    low, high = torch.zeros_like(x), torch.ones_like(x)
    if norm == "linf":
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    at_low, at_high = point <= low, point >= high
    delta = point - x
    on_ball = norm_of(delta, norm) >= eps * (1 - ON_BALL)
    pull = torch.zeros_like(x[:, 0])
    free, outward = torch.ones_like(at_low), delta
    for _ in range(3):
        slope = grad + pull[:, None] * delta
        free = ~((at_low & (slope > 0)) | (at_high & (slope < 0)))
        outward = delta * free
        length = outward.square().sum(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        pull = (-(grad * outward).sum(dim=1) / length).clamp(min=0) * (on_ball & (norm == "l2"))
    normal = outward * (pull > 0)[:, None] / length.sqrt()[:, None]
    down = -(grad * free)
    down = down - (down * normal).sum(dim=1, keepdim=True) * normal
    return Cone(down, free, normal, pull, pull > 0 if norm == "l2" else on_ball)
