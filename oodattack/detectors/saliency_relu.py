"""ReLUs with another derivative: guided, for a saliency map; or the same, with a smooth derivative of its own.

Maps made of gradients of a ReLU network are piecewise constant in the input where they do not multiply by it. Here the
gradient keeps its value, with 1[z > 0] in it, and only *its* derivative is that of sigmoid(beta z): an attacker sees
which ReLUs are about to open, and every score that the search compares is the detector's own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from oodattack.detectors.smooth_relu import (
    HINGES,
    RELU,
    RELU_HINGES,
    SMOOTH,
    THRESHOLDS,
    Hinges,
    of_input,
    plain,
    works_in_place,
)
from oodattack.detectors.straight_through import with_gradient_of

UNGUIDED = (HINGES.keys() | SMOOTH | THRESHOLDS | {functional.rrelu, torch.rrelu, torch.rrelu_, functional.glu}) - RELU


def slope_at(z: Tensor, hinges: Hinges, beta: float | None) -> Tensor:
    """Derivative of a piecewise linear function; with `beta` sigmoid(beta (z - knot)) in place of 1[z > knot]."""
    slope = z.new_zeros(()) + hinges.slope
    for knot, gain in hinges.knots:
        past = (z > knot).to(z.dtype) if beta is None else (beta * (z - knot)).sigmoid()
        slope = slope + gain * past
    return slope


class _Bent(torch.autograd.Function):
    """Value of `f`; derivative that of the hinges, guided or not, whose own derivative is smooth if `beta` is set."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, f: Callable[[Tensor], Tensor], hinges: Hinges, guided: bool, beta: float | None
    ) -> Tensor:
        ctx.hinges, ctx.guided, ctx.beta = hinges, guided, beta
        ctx.save_for_backward(z)
        return f(z)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        (g,), (z,) = grad_outputs, ctx.saved_tensors
        slope = slope_at(z.detach(), ctx.hinges, None)
        if ctx.beta is not None:
            soft = slope_at(z, ctx.hinges, ctx.beta)
            slope = with_gradient_of(slope, soft)
        return slope * (g * (g > 0) if ctx.guided else g), None, None, None, None


class BentRelus(TorchFunctionMode):
    """Inside, ReLUs have the derivative of `_Bent`, whether they are modules, functions or clamps, see `plain`.

    Args:
        guided: let only positive gradients out of a ReLU, as guided backpropagation does. Otherwise the piecewise
            linear relatives of the ReLU (`smooth_relu.HINGES`, without gates) have their smooth derivative, too.
        beta: steepness of the derivative's derivative, > 0, in the units of z; None for none, as in the network.

    Attributes:
        seen: how many ReLUs were called.
    """

    def __init__(self, *, guided: bool, beta: float | None) -> None:
        super().__init__()
        self.guided, self.beta, self.seen = guided, beta, 0

    def __torch_function__(  # noqa: D105, RUF100
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__.removeprefix("_")
        func, args, kwargs = plain(func, args, kwargs or {})
        z = args[0] if args else kwargs.get("input")
        if (
            not isinstance(z, Tensor) or (hinges := self._hinges(func, args, kwargs, name)) is None
        ):  # or one of torch.fx
            return func(*args, **kwargs)
        self.seen += 1
        value = of_input(func, args, kwargs)
        out = _Bent.apply(z.clone(), value, hinges, self.guided, self.beta)  # a clone: the network may change z later
        return z.copy_(out) if works_in_place(func, args, kwargs) else out

    def _hinges(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Hinges | None:
        """The function's bends, None for one that is left alone.

        Raises:
            ValueError: guided, and an activation that has no rule.
        """
        if func in RELU:
            return RELU_HINGES
        if not self.guided:
            hinges = HINGES[func](args, kwargs) if func in HINGES else None
            return None if hinges is None or hinges.gate else hinges
        if func in UNGUIDED:
            raise ValueError(
                f"guided backpropagation must have ReLUs as activations, got {name!r}, for which it has no rule. "
                'Take another detector, or in Python method="integrated-gradients".'
            )
        return None
