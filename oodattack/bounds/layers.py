"""Layers of torch as steps: one function a kind of layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from oodattack.bounds.affine import Affine, Map, Shape, matrix, rearranging, scaling
from oodattack.bounds.bend import Bend
from oodattack.bounds.peak import Peak, peak
from oodattack.bounds.spectral import convolution_norm

DENSE = 2**18  # entries of a convolution's matrix up to which it is written out
Kind = Affine | Bend | Peak | None  # None: the output is the input


def _linear(module: nn.Linear, shape: Shape) -> Affine:
    return matrix(module.weight.detach(), None if module.bias is None else module.bias.detach(), shape)


def _convolution(module: nn.Conv2d, shape: Shape) -> Affine:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError("it pads otherwise than with a number of zeros")
    options = (module.stride, module.padding, module.dilation, module.groups)
    weight = module.weight.detach()

    def by(w: Tensor) -> Map:
        if torch.Size(shape).numel() * conv2d(w.new_zeros(1, *shape), w, None, *options).numel() <= DENSE:
            return as_matrix(lambda z: conv2d(z, w, None, *options), shape, w)

        def backward(a: Tensor) -> tuple[Tensor, ...]:
            return (conv2d_input((len(a), *shape), w, a, *options),)

        return Map(lambda z: conv2d(z, w, None, *options), backward)

    bias = None if module.bias is None else module.bias.detach().view(1, -1, 1, 1)
    return Affine(by(weight), by(weight.abs()), bias, (shape,), lambda: [convolution_norm(module, shape)])


def as_matrix(forward: Callable[[Tensor], Tensor], shape: Shape, like: Tensor) -> Map:
    """A small linear map with its matrix written out: for a few pixels it is quicker than a convolution in float64."""
    size = torch.Size(shape).numel()
    columns = forward(torch.eye(size, dtype=like.dtype, device=like.device).view(size, *shape))
    out, table = columns.shape[1:], columns.flatten(1)  # (in, out)
    return Map(
        lambda z: (z.flatten(1) @ table).view(len(z), *out), lambda a: ((a.flatten(1) @ table.mT).view(len(a), *shape),)
    )


def _norm(module: nn.BatchNorm2d | nn.BatchNorm1d, shape: Shape) -> Affine:
    if module.running_mean is None or module.running_var is None:
        raise ValueError("it normalises with the statistics of the batch")
    scale = (module.running_var + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight.detach()
    shift = -module.running_mean * scale + (0.0 if module.bias is None else module.bias.detach())
    view = (1, -1, *[1] * (len(shape) - 1))
    return scaling(scale.view(view), shift.view(view), shape)


def _rearranged(module: nn.Module, shape: Shape) -> Affine:
    return rearranging(module, [shape])


def _average(module: nn.AvgPool2d, shape: Shape) -> Affine:
    check_divisor(module.divisor_override)
    return _rearranged(module, shape)


def check_divisor(divisor: int | None) -> None:
    """Raise ValueError where the average of positive numbers would be negative."""
    if divisor is not None and divisor < 0:
        raise ValueError(f"its divisor is {divisor} and not positive")


def _hidden(_module: nn.Module, _shape: Shape) -> None:
    return None


LAYERS: dict[type[nn.Module], Callable[[Any, Shape], Kind]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.ReLU: lambda _module, _shape: Bend(0.0),
    nn.LeakyReLU: lambda module, _shape: bend(module.negative_slope),
    nn.MaxPool2d: peak,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _rearranged,
    nn.ZeroPad2d: _rearranged,
    nn.Flatten: _rearranged,
    nn.Identity: _hidden,
    nn.Dropout: _hidden,
    nn.Dropout2d: _hidden,
}


def bend(slope: float) -> Bend:
    """The step of a LeakyReLU.

    Raises:
        ValueError: a slope outside 0..1.
    """
    if not 0 <= slope <= 1:
        raise ValueError(f"its slope is {slope:g} and not in 0..1")
    return Bend(float(slope))
