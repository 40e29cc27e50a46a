"""Functions and methods of tensors as steps: one rule a kind of call."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from oodattack.bounds.affine import Affine, rearranging
from oodattack.bounds.arithmetic import negative, product, sum_of
from oodattack.bounds.bend import Bend
from oodattack.bounds.call import Call, argument
from oodattack.bounds.layers import Kind, bend, check_divisor
from oodattack.bounds.peak import peak


def step_of(call: Call) -> Kind:
    """The step, None where the output is the input.

    Raises:
        ValueError: no rule, or arguments that the rule does not know.
    """
    rule = RULES.get(call.node.target)
    if rule is None:
        raise ValueError("no bounds are known for it")
    return rule(call)


def _reshaped(call: Call) -> Kind:
    if call.shapes[0] == call.out:
        return None
    return rearranging(lambda z: z.reshape(len(z), *call.out), call.shapes)


def _replayed(call: Call) -> Affine:
    """The call itself, which has no negative coefficients."""
    if any(isinstance(value, Tensor) for value in call.constants.values()):
        raise ValueError("it takes a tensor that is no output of a layer")

    def run(*z: Tensor) -> Any:
        given = {**call.constants, **dict(zip(call.inputs, z, strict=True))}
        args = fx.node.map_arg(call.node.args, given.__getitem__)
        return call.run(*args, **fx.node.map_arg(call.node.kwargs, given.__getitem__))

    return rearranging(run, call.shapes)


def _padded(call: Call) -> Affine:
    mode = argument(call, 2, "mode", "constant")
    if mode != "constant" or argument(call, 3, "value", None):
        raise ValueError("it pads otherwise than with zeros")
    return _replayed(call)


def _average(call: Call) -> Affine:
    check_divisor(argument(call, 6, "divisor_override", None))
    return _replayed(call)


def _max_pool(call: Call) -> Kind:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    defaults = (None, None, 0, 1, False)
    known = {n: argument(call, i + 1, n, d) for i, (n, d) in enumerate(zip(names, defaults, strict=True))}
    return peak(nn.MaxPool2d(**known), call.shapes[0])


def _relu(_call: Call) -> Bend:
    return Bend(0.0)


def _leaky(call: Call) -> Bend:
    return bend(argument(call, 1, "negative_slope", 0.01))


def _dropout(call: Call) -> None:
    if argument(call, 2, "training", True):
        raise ValueError("it is random")


RULES: dict[Any, Callable[[Call], Kind]] = {
    **dict.fromkeys(("flatten", "view", "reshape", "contiguous", "squeeze", "unsqueeze"), _reshaped),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), _reshaped),
    **dict.fromkeys((torch.cat, torch.concat, operator.getitem, torch.mean, "mean"), _replayed),
    functional.adaptive_avg_pool2d: _replayed,
    functional.avg_pool2d: _average,
    functional.pad: _padded,
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), sum_of(1.0)),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), sum_of(-1.0)),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), product(inverse=False)),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), product(inverse=True)),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), negative),
    **dict.fromkeys((torch.relu, torch.relu_, functional.relu, functional.relu_, "relu", "relu_"), _relu),
    functional.leaky_relu: _leaky,
    functional.max_pool2d: _max_pool,
    functional.dropout: _dropout,
}
