"""A function of x that keeps nothing for its backward pass but x: memory of one block of many."""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.f, ctx.context = f, copy_context()  # backward may run in a thread that knows nothing of a search
        ctx.save_for_backward(x)
        return f(x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(ctx.context.run(ctx.f, leaf), leaf, grad)
        return found, None


def recomputed(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), evaluated once more in the backward pass instead of remembered.

    A backward pass then costs one more evaluation, and a sum or concatenation of many such calls needs the memory of
    one. Only x gets a gradient, no parameter does, and there is no second derivative.

    Args:
        f: differentiable function of x alone, the same at every call.
        x: any shape.

    Returns:
        What f returns.
    """
    found: Tensor = _Recomputed.apply(x, f)
    return found
