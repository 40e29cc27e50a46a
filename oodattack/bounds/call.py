"""A call of a function or method in a traced network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx

from oodattack.bounds.affine import Shape


class Call(NamedTuple):
    """A node that calls a function or a method on outputs of steps.

    Attributes:
        node: of the traced network.
        run: the function, or the method as a function.
        inputs: nodes among the arguments that are outputs of steps, each once.
        shapes: of these, one row.
        out: of the result, one row.
        constants: values of the other nodes among the arguments.
        device: of the tensors.
    """

    node: fx.Node
    run: Callable[..., Any]
    inputs: list[fx.Node]
    shapes: list[Shape]
    out: Shape
    constants: dict[fx.Node, Any]
    device: torch.device


def argument(call: Call, place: int, name: str, default: Any) -> Any:
    """An argument of the call by place or name."""
    return call.node.args[place] if len(call.node.args) > place else call.node.kwargs.get(name, default)
