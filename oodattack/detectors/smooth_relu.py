"""ReLUs and their piecewise linear relatives with exact value and smooth derivative: so that a gradient has a gradient.

Smooth activations (GELU, SiLU, ELU, Tanh, Sigmoid, ...) need none of this: autograd differentiates them twice.
"""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from oodattack.detectors.straight_through import with_gradient_of

RELU = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu}
SMOOTH = {
    functional.gelu, functional.silu, functional.mish, functional.elu, functional.elu_, functional.selu, torch.selu,
    torch.selu_, functional.celu, torch.celu, torch.celu_, functional.softplus, functional.logsigmoid,
}  # fmt: skip


WHITE = (1, 255)  # a clamp to [0, 1] or [0, 255] clips images
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # function, args, kwargs
Capped = tuple[Any, float]  # z and c of min(relu(z), c)


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


def _is_zero(bound: Any, z: Any) -> bool:
    """Whether a bound of z is 0 everywhere, and leaves z its shape and dtype."""
    if not isinstance(bound, Tensor) or not isinstance(z, Tensor):
        return isinstance(bound, (int, float)) and bound == 0
    fits = torch.broadcast_shapes(z.shape, bound.shape) == z.shape and torch.result_type(z, bound) == z.dtype
    return fits and not bound.requires_grad and not bound.count_nonzero()


def _clamp(input: Any, min: Any = None, max: Any = None, **others: Any) -> Capped | None:
    cap = inf if max is None else max
    known = not others and _is_zero(min, input) and isinstance(cap, (int, float)) and cap > 0 and cap not in WHITE
    return (input, float(cap)) if known else None


def _maximum(input: Any, other: Any = None, *_: Any, **others: Any) -> Capped | None:
    if not isinstance(other, Tensor) or others:  # `torch.max` over a dimension
        return None
    return next(((z, inf) for z, bound in ((input, other), (other, input)) if _is_zero(bound, z)), None)


def _threshold(input: Any, threshold: Any, value: Any, *_: Any, **others: Any) -> Capped | None:
    return (input, inf) if "out" not in others and _is_zero(threshold, input) and _is_zero(value, input) else None


THRESHOLDS = {functional.threshold, torch.threshold, torch.threshold_}
CLAMPS = {
    torch.clamp, torch.clamp_, torch.clip, torch.clip_, torch.clamp_min, torch.clamp_min_, Tensor.clamp, Tensor.clamp_,
    Tensor.clip, Tensor.clip_, Tensor.clamp_min, Tensor.clamp_min_,
}  # fmt: skip
SPELLINGS: dict[Any, Callable[..., Capped | None]] = {
    **dict.fromkeys(CLAMPS, _clamp),
    **dict.fromkeys((torch.maximum, Tensor.maximum, torch.max, Tensor.max), _maximum),
    **dict.fromkeys(THRESHOLDS, _threshold),
}


def plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A ReLU in another spelling as a call of `relu`, a clamp to [0, c] as one of `hardtanh`; any other call itself.

    Other spellings are a clamp from below at 0, the maximum with zeros, and a threshold of 0 with value 0. Clamps that
    start elsewhere, or end where images do, keep a number in its range and are no activations.
    """
    found = SPELLINGS[func](*args, **kwargs) if func in SPELLINGS else None
    if found is None or not isinstance(found[0], Tensor) or not found[0].is_floating_point():
        return func, args, kwargs
    z, cap = found
    in_place = works_in_place(func, args, kwargs)
    if cap == inf:
        return torch.relu_ if in_place else torch.relu, (z,), {}
    return functional.hardtanh_ if in_place else functional.hardtanh, (z, 0.0, cap), {}


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The z of a call f(z, ...)."""
    z: Tensor = args[0] if args else kwargs["input"]
    return z


def works_in_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of an activation changes its z."""
    return func.__name__.endswith("_") or bool(kwargs.get("inplace")) or any(a is True for a in args[1:])


def of_input(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The call as a function of z alone, which it leaves as it is."""
    others = {name: value for name, value in kwargs.items() if name != "input"}
    return lambda z: func(z.clone() if works_in_place(func, args, kwargs) else z, *args[1:], **others)


class SmoothRelu(TorchFunctionMode):
    """Inside, every activation of `HINGES`, module, function or clamp, keeps its value but has a smooth derivative.

    A score made of gradients of a ReLU network is piecewise constant in the input: its own gradient is zero almost
    everywhere. With 1[z > 0] replaced by sigmoid(beta z) in the backward pass it becomes a smooth function of it; and
    so for every knot of ReLU6, Hardtanh, LeakyReLU, PReLU, Hardsigmoid and Hardswish. ReLUs may be clamps, maxima and
    thresholds, see `plain`; one written with `where` or as a product with z > 0 is not seen.

    Args:
        beta: steepness, > 0, in the units of the pre-activation.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def __torch_function__(  # noqa: D105, RUF100
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = plain(func, args, kwargs or {})
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
