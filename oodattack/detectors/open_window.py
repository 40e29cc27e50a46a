"""Between which inputs an activation lets a gradient through."""

from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack.detectors.smooth_relu import HINGES, SMOOTH, Hinges, input_of

SQUASHING = {
    torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_,
}  # fmt: skip
REACH = 10.0  # a smooth activation's edge at e gets the steepness REACH / |e|: sigmoid(10) still has a slope in float32


class Window(NamedTuple):
    """Where an activation's derivative is not exactly zero: low < z < high. `hard`: by definition, not by rounding."""

    low: float
    high: float
    hard: bool

    def soft(self, z: Tensor, beta: float) -> Tensor:
        """sigmoid(b (z - low)) * sigmoid(b (high - z)), in (0, 1); b = beta, or less for an edge due to rounding."""
        edges = [(self.low, z - self.low), (self.high, self.high - z)]
        near = [(beta if self.hard else min(beta, REACH / abs(e))) * inside for e, inside in edges if abs(e) < inf]
        return torch.stack(near).sigmoid().prod(dim=0)


def window(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Window | None:
    """The window of a call, None for anything else than an activation with a flat part (LeakyReLU has none)."""
    if func in HINGES:
        return hinge_window(HINGES[func](args, kwargs))
    if func not in SMOOTH and func not in SQUASHING:
        return None
    z, others = (
        input_of(args, kwargs),
        tuple(sorted((k, v) for k, v in kwargs.items() if k not in ("input", "inplace"))),
    )
    low, high = rounding_edges(func, args[1:], others, z.dtype, z.device.type)
    return Window(low, high, False) if min(abs(low), abs(high)) < inf else None


def hinge_window(hinges: Hinges) -> Window | None:
    """From the first knot, if the function is flat before it, to the last one, if it is flat behind it."""
    if isinstance(hinges.slope, Tensor):
        return None
    after = hinges.slope + sum(gain for _, gain in hinges.knots)
    low = hinges.knots[0][0] if hinges.slope == 0 else -inf
    high = hinges.knots[-1][0] if after == 0 and not hinges.gate else inf
    return Window(low, high, True) if low > -inf or high < inf else None


@cache
def rounding_edges(
    func: Any, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...], dtype: torch.dtype, device: str
) -> tuple[float, float]:
    """Between which z the derivative that autograd computes is not rounded to zero, to 1/16; infinite beyond 1024.

    In float32: Tanh -9..9, Sigmoid -89..17, GELU from -6, SiLU from -89, ELU from -104; in float64 Tanh -19..19.
    """
    with torch.enable_grad():
        z = torch.linspace(-1024, 1024, 2**15 + 1, dtype=dtype, device=device).requires_grad_()
        (slope,) = torch.autograd.grad(func(z * 1, *args, **dict(kwargs)).sum(), z)
    alive = z.detach()[slope != 0]
    low, high = alive.min().item(), alive.max().item()
    return (-inf if low <= -1024 else low), (inf if high >= 1024 else high)
