"""Sums and products with numbers as steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from oodattack.bounds.affine import Affine, scaling, signed_sum
from oodattack.bounds.call import Call, argument


def sum_of(sign: float) -> Callable[[Call], Affine]:
    """The rule of z + sign w, two outputs or an output and a number."""

    def rule(call: Call) -> Affine:
        if set(call.node.kwargs) - {"other"}:
            raise ValueError("it has more than two terms")
        first, second = _operands(call)
        shape = call.out
        if isinstance(first, fx.Node) and isinstance(second, fx.Node):
            if first is second:
                return scaling(_one(call, 1 + sign), None, shape)
            if call.shapes != [shape, shape]:
                raise ValueError("its terms differ in shape")
            return signed_sum((1.0, sign), shape)
        constant, of_input = (second, 1.0) if isinstance(first, fx.Node) else (first, sign)
        if call.shapes[0] != shape:
            raise ValueError("it makes its input larger")
        shift = _one(call, 1.0) * constant * (sign if isinstance(first, fx.Node) else 1.0)
        return scaling(_one(call, of_input), shift, shape)

    return rule


def product(*, inverse: bool) -> Callable[[Call], Affine]:
    """The rule of z times or over a number."""

    def rule(call: Call) -> Affine:
        first, second = _operands(call)
        nodes = [isinstance(part, fx.Node) for part in (first, second)]
        if all(nodes) or (inverse and nodes[1]) or call.shapes[0] != call.out:
            raise ValueError("it is no product with a number")
        factor = second if nodes[0] else first
        scale = _one(call, 1.0) / factor if inverse else _one(call, 1.0) * factor
        return scaling(scale, None, call.out)

    return rule


def negative(call: Call) -> Affine:
    """The rule of -z."""
    return scaling(_one(call, -1.0), None, call.out)


def _operands(call: Call) -> tuple[Any, Any]:
    """Both arguments: the node of an input, or a number or tensor that broadcasts over the batch."""
    found = []
    for place, name in enumerate(("input", "other")):
        value = argument(call, place, name, None)
        if isinstance(value, fx.Node) and value not in call.inputs:
            value = call.constants[value]
        if isinstance(value, Tensor) and value.ndim > len(call.out) and len(value) != 1:
            raise ValueError("it takes a tensor with a row for every image")
        if not isinstance(value, fx.Node | Tensor | int | float):
            raise ValueError(f"it takes a {type(value).__name__}")
        found.append(value)
    return found[0], found[1]


def _one(call: Call, value: float) -> Tensor:
    """A number as a tensor that broadcasts, where and of the type that weights are."""
    return torch.full((1, *[1] * len(call.out)), value, dtype=torch.float64, device=call.device)
