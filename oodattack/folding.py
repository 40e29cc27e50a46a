"""A faster copy of a network for the inside of a search: batch norms folded into the convolutions before them."""

import copy

import torch
from torch import Tensor, nn


def fold(network: nn.Module) -> nn.Module | None:
    """A copy that computes the same function up to rounding, or None where the network cannot be traced.

    In eval mode a batch norm is a fixed affine map of each channel, and an affine map after a convolution is another
    convolution. `torch.fx` finds the pairs. Weights are laid out channels last, which convolutions like better.
    Networks whose control flow depends on values cannot be traced.

    Args:
        network: in eval mode, from images to logits.
    """
    from torch.fx.experimental.optimization import fuse

    if any(module.training for module in network.modules()):
        return None
    try:
        folded = fuse(copy.deepcopy(network)).eval().requires_grad_(False)
        return folded.to(memory_format=torch.channels_last)
    except Exception:  # whatever tracing somebody's network raises; the network itself works
        return None


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two results are equal up to the rounding of a network: one part in a thousand of the largest."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())
