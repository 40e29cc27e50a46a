"""Straight-through gradients: Bengio, Leonard & Courville, "Estimating or Propagating Gradients Through Stochastic
Neurons for Conditional Computation", arXiv:1308.3432."""

from torch import Tensor


def with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """`value`, to which what flows back adds the gradient of `other`; its own, if it has one, stays."""
    return value + (other - other.detach())  # the bracket is exactly 0
