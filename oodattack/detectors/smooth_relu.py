"""ReLUs whose value is exact and whose derivative is smooth, so that a gradient has a gradient."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RELU = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu}
IN_PLACE = {torch.relu_, Tensor.relu_}


class SmoothRelu(TorchFunctionMode):
    """Inside, every ReLU (module or function) keeps its value but differentiates as softplus: sigmoid(beta z).

    A score made of gradients of a ReLU network is piecewise constant in the input: its own gradient is zero almost
    everywhere. With 1[z > 0] replaced by sigmoid(beta z) in the backward pass it becomes a smooth function of it.

    Args:
        beta: steepness, > 0, in the units of the pre-activation.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def __torch_function__(  # noqa: D105, RUF100
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in RELU:
            z = args[0] if args else (kwargs or {})["input"]
            in_place = func in IN_PLACE or (kwargs or {}).get("inplace") or True in args[1:]
            return z.copy_(smooth_relu(z.clone(), self.beta)) if in_place else smooth_relu(z, self.beta)
        return func(*args, **(kwargs or {}))


def smooth_relu(z: Tensor, beta: float) -> Tensor:
    """relu(z) with derivative sigmoid(beta z)."""
    soft = nn.functional.softplus(z, beta=beta)
    return z.detach().clamp(min=0) + (soft - soft.detach())  # the bracket is exactly 0
