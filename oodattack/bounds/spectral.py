"""Upper bounds of the spectral norm of convolutions.

A convolution with zero padding is a part of one on a torus: cut out of it, so it is no longer. On the torus it is a
matrix of c_out x c_in for every frequency (Sedghi, Gupta & Long, "The Singular Values of Convolutional Layers", ICLR
2019, arXiv:1805.10408); a stride s folds s^2 frequencies into one matrix of c_out x s^2 c_in. Power iteration on the
layer itself approaches its norm from below and certifies nothing.
"""

import math

import torch
from torch import Tensor, nn

from oodattack.bounds.affine import Shape, largest


def convolution_norm(module: nn.Conv2d, shape: Shape) -> float:
    """Norm of the convolution on a torus that holds the image and its kernel, >= that of the layer.

    Args:
        module: with padding by zeros.
        shape: of one input (C, H, W).
    """
    weight = dense_weight(module)
    size, kernel, stride, dilation = shape[1:], weight.shape[2:], module.stride, module.dilation
    torus = [-(-(n + d * (k - 1)) // s) * s for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    spaced = weight.new_zeros(*weight.shape[:2], *[d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)])
    spaced[:, :, :: dilation[0], :: dilation[1]] = weight
    transfer = torch.fft.fft2(spaced, s=torus)  # (out, in, h, w)
    h, w = torus[0] // stride[0], torus[1] // stride[1]
    folded = transfer.unflatten(3, (stride[1], w)).unflatten(2, (stride[0], h))  # (out, in, s, h, s, w)
    blocks = folded.permute(3, 5, 0, 1, 2, 4).flatten(3)  # (h, w, out, in s s)
    return largest(blocks) / math.sqrt(stride[0] * stride[1])


def dense_weight(module: nn.Conv2d) -> Tensor:
    """The weight without groups, zeros between them: (out, in, k, k), float64, no gradient."""
    weight = module.weight.detach().double()
    if module.groups == 1:
        return weight
    out, each = len(weight) // module.groups, weight.shape[1]
    dense = weight.new_zeros(len(weight), module.in_channels, *weight.shape[2:])
    for g in range(module.groups):
        dense[g * out : (g + 1) * out, g * each : (g + 1) * each] = weight[g * out : (g + 1) * out]
    return dense
