"""ReLUs and their piecewise linear relatives with exact value and smooth derivative: so that a gradient has a gradient.

Smooth activations (GELU, SiLU, ELU, Tanh, Sigmoid, ...) need none of this: autograd differentiates them twice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from oodattack.detectors.straight_through import with_gradient_of

RELU = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu}
IN_PLACE = {torch.relu_, Tensor.relu_, functional.hardtanh_, functional.leaky_relu_}
SMOOTH = {
    functional.gelu, functional.silu, functional.mish, functional.elu, functional.elu_, functional.selu, torch.selu,
    torch.selu_, functional.celu, torch.celu, torch.celu_, functional.softplus, functional.logsigmoid,
}  # fmt: skip


class Hinges(NamedTuple):
    """A continuous piecewise linear function of z.

    Attributes:
        slope: left of all knots; a tensor (channels,) for `nn.PReLU`.
        knots: (place, by how much the slope grows there), from left to right.
        gate: the function is multiplied by z, as in z * hardsigmoid(z) = hardswish(z).
    """

    slope: float | Tensor
    knots: tuple[tuple[float, float | Tensor], ...]
    gate: bool = False


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _hardtanh(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hinges:
    low, high = _argument(args, kwargs, 1, "min_val", -1.0), _argument(args, kwargs, 2, "max_val", 1.0)
    return Hinges(0.0, ((low, 1.0), (high, -1.0)))


def _leaky(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hinges:
    slope = _argument(args, kwargs, 1, "negative_slope", 0.01)
    return Hinges(slope, ((0.0, 1 - slope),))


def _prelu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hinges:
    z, slope = input_of(args, kwargs), _argument(args, kwargs, 1, "weight", None)
    if slope.numel() > 1:
        slope = slope.view(1, -1, *[1] * (z.ndim - 2))  # one a channel
    return Hinges(slope, ((0.0, 1 - slope),))


RELU_HINGES = Hinges(0.0, ((0.0, 1.0),))
HARD_SIGMOID = ((-3.0, 1 / 6), (3.0, -1 / 6))
HINGES: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], Hinges]] = {
    **dict.fromkeys(RELU, lambda _a, _k: RELU_HINGES),
    functional.relu6: lambda _a, _k: Hinges(0.0, ((0.0, 1.0), (6.0, -1.0))),
    **dict.fromkeys((functional.hardtanh, functional.hardtanh_), _hardtanh),
    **dict.fromkeys((functional.leaky_relu, functional.leaky_relu_), _leaky),
    **dict.fromkeys((torch.prelu, Tensor.prelu), _prelu),
    functional.hardsigmoid: lambda _a, _k: Hinges(0.0, HARD_SIGMOID),
    functional.hardswish: lambda _a, _k: Hinges(0.0, HARD_SIGMOID, gate=True),
}


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The z of a call f(z, ...)."""
    z: Tensor = args[0] if args else kwargs["input"]
    return z


def works_in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of an activation changes its z."""
    return func in IN_PLACE or bool(kwargs.get("inplace")) or any(a is True for a in args[1:])


def of_input(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The call as a function of z alone, which it leaves as it is."""
    others = {name: value for name, value in kwargs.items() if name != "input"}
    return lambda z: func(z.clone() if works_in_place(func, args, kwargs) else z, *args[1:], **others)


class SmoothRelu(TorchFunctionMode):
    """Inside, every activation of `HINGES`, module or function, keeps its value but has a smooth derivative.

    A score made of gradients of a ReLU network is piecewise constant in the input: its own gradient is zero almost
    everywhere. With 1[z > 0] replaced by sigmoid(beta z) in the backward pass it becomes a smooth function of it; and
    so for every knot of ReLU6, Hardtanh, LeakyReLU, PReLU, Hardsigmoid and Hardswish.

    Args:
        beta: steepness, > 0, in the units of the pre-activation.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def __torch_function__(  # noqa: D105, RUF100
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in HINGES:
            return func(*args, **kwargs)
        z = input_of(args, kwargs)
        in_place = works_in_place(func, args, kwargs)
        before = z.clone() if in_place else z
        with torch.no_grad():
            value = of_input(func, args, kwargs)(z)
        soft = smooth_hinges(before, HINGES[func](args, kwargs), self.beta)
        out = with_gradient_of(value, soft)
        return z.copy_(out) if in_place else out


def smooth_hinges(z: Tensor, hinges: Hinges, beta: float) -> Tensor:
    """slope * z + sum of gain * softplus(z - knot), times z for a gate: a knot becomes a bend of width 1 / beta."""
    bends = [gain * nn.functional.softplus(z - knot, beta=beta) for knot, gain in hinges.knots]
    out = torch.stack([hinges.slope * z, *bends]).sum(dim=0)
    return z * out if hinges.gate else out
