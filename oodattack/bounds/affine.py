"""Affine steps of a network, h = A (z_1, ..., z_n) + b, with |A| and both transposed: all that bounds ask of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from oodattack.bounds.ball import Interval

Shape = tuple[int, ...]  # of one row


class Map(NamedTuple):
    """A linear map of one or several tensors, and its transpose. Rows of the batch do not mix.

    Attributes:
        forward: (N, *in_1), ..., (N, *in_n) -> (N, *out).
        backward: (N, *out) -> one (N, *in_i) each.
    """

    forward: Callable[..., Tensor]
    backward: Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Affine:
    """h = A (z_1, ..., z_n) + b.

    Attributes:
        exact: A.
        size: |A|, entry by entry.
        bias: b, shape (1, *out) or what broadcasts to it; None for 0.
        inputs: shapes of one row.
        norms: computes upper bounds of the spectral norms of the blocks of A, one an input; None: `block_norms`.
    """

    exact: Map
    size: Map
    bias: Tensor | None
    inputs: tuple[Shape, ...]
    norms: Callable[[], list[float]] | None = None

    def point(self, *z: Tensor) -> Tensor:
        """h, shape (N, *out)."""
        h = self.exact.forward(*z)
        return h if self.bias is None else h + self.bias

    def interval(self, *z: Interval) -> Interval:
        """Smallest box around h for z in boxes: A c + b - |A| r and A c + b + |A| r, c the centres, r half widths."""
        centre = self.point(*[(low + high) / 2 for low, high in z])
        radius = self.size.forward(*[(high - low) / 2 for low, high in z])
        return Interval(centre - radius, centre + radius)

    def lower(self, a: Tensor, *_: Interval) -> tuple[tuple[Tensor, ...], Tensor]:
        """<a, h> = sum_i <a_i, z_i> + c: the a_i, shapes (B, S, *in_i), and c, shape (B, S)."""
        parts = transposed(self.exact, a)
        if self.bias is None:
            return parts, a.new_zeros(a.shape[:2])
        return parts, (a * self.bias).flatten(2).sum(dim=2)

    def slopes(self, a: Interval, *_: Interval) -> tuple[Interval, ...]:
        """A^T a for all a in an interval: smallest boxes around it, one an input."""
        centre = transposed(self.exact, (a.lower + a.upper) / 2)
        radius = transposed(self.size, (a.upper - a.lower) / 2)
        return tuple(Interval(c - r, c + r) for c, r in zip(centre, radius, strict=True))

    def lipschitz(self, *of_inputs: float) -> float:
        """Constant of h in l2, given those of the z_i: sum_i ||A_i|| L_i."""
        norms = block_norms(self) if self.norms is None else self.norms()
        return sum(norm * each for norm, each in zip(norms, of_inputs, strict=True))


def transposed(linear: Map, a: Tensor) -> tuple[Tensor, ...]:
    """A^T a, shapes (B, S, *out) -> (B, S, *in_i)."""
    batch = a.shape[:2]
    return tuple(part.reshape(*batch, *part.shape[1:]) for part in linear.backward(a.reshape(-1, *a.shape[2:])))


def by_autograd(forward: Callable[..., Tensor], shapes: Sequence[Shape]) -> Map:
    """A linear map whose transpose comes from the gradient of <a, A z>."""

    def backward(a: Tensor) -> tuple[Tensor, ...]:
        z = [a.new_zeros(len(a), *shape, requires_grad=True) for shape in shapes]
        with torch.enable_grad():
            h = forward(*z)
        return torch.autograd.grad(h, z, a)

    return Map(forward, backward)


def rearranging(forward: Callable[..., Tensor], shapes: Sequence[Shape]) -> Affine:
    """A linear step without negative entries: reshaping, slices, padding with zeros, concatenation, averages, sums."""
    linear = by_autograd(forward, shapes)
    return Affine(linear, linear, None, tuple(shapes))


def scaling(scale: Tensor, shift: Tensor | None, shape: Shape) -> Affine:
    """scale * z + shift, entry by entry; both broadcast over the batch."""

    def times(factor: Tensor) -> Map:
        return Map(lambda z: z * factor, lambda a: ((a * factor),))

    largest = scale.abs().max().item()
    return Affine(times(scale), times(scale.abs()), shift, (shape,), lambda: [largest])


def signed_sum(signs: tuple[float, float], shape: Shape) -> Affine:
    """s_1 z_1 + s_2 z_2."""
    first, second = signs
    exact = Map(lambda z, w: first * z + second * w, lambda a: (first * a, second * a))
    size = Map(lambda z, w: abs(first) * z + abs(second) * w, lambda a: (abs(first) * a, abs(second) * a))
    return Affine(exact, size, None, (shape, shape), lambda: [abs(first), abs(second)])


def matrix(weight: Tensor, bias: Tensor | None, shape: Shape) -> Affine:
    """W z + b along the last dimension; W of shape (out, in), b of shape (out,)."""

    def times(w: Tensor) -> Map:
        return Map(lambda z: linear(z, w), lambda a: (a @ w,))

    shift = None if bias is None else bias[None]
    return Affine(times(weight), times(weight.abs()), shift, (shape,), lambda: [largest(weight)])


def largest(matrices: Tensor) -> float:
    """Largest singular value of any matrix in (..., n, m), rounded up."""
    gram = matrices @ matrices.mH if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH @ matrices
    return math.sqrt(max(torch.linalg.eigvalsh(gram).max().item(), 0.0)) * (1 + 1e-9)


def block_norms(step: Affine) -> list[float]:
    """sqrt(||A_i||_1 ||A_i||_inf) >= ||A_i||_2 for the block A_i of every input: largest column and row sums of |A|."""
    found = []
    for i in range(len(step.inputs)):
        ones = [torch.full((1, *shape), float(i == j), dtype=torch.float64) for j, shape in enumerate(step.inputs)]
        sums = step.size.forward(*ones)
        columns = step.size.backward(torch.ones_like(sums))[i]
        found.append((sums.max() * columns.max()).sqrt().item())
    return found
