"""Activations of two slopes: ReLU and LeakyReLU, z times a below 0 and z above."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.bounds.ball import Interval, inner


@dataclass(frozen=True)
class Bend:
    """max(z, a z), 0 <= a <= 1: convex and increasing.

    Linear bounds: Zhang et al., "Efficient Neural Network Robustness Certification with General Activation Functions",
    NeurIPS 2018, arXiv:1811.00866 (CROWN), with the lower slope chosen by the larger half.

    Attributes:
        slope: a; 0 for ReLU.
    """

    slope: float

    def point(self, z: Tensor) -> Tensor:
        """Same shape as `z`."""
        return z.maximum(self.slope * z)

    def interval(self, z: Interval) -> Interval:
        """Of an increasing function: its values at the ends."""
        return Interval(self.point(z.lower), self.point(z.upper))

    def lower(self, a: Tensor, z: Interval) -> tuple[tuple[Tensor, ...], Tensor]:
        """<a, h> >= <a', z> + c for all z in the interval.

        Where a < 0 the chord bounds h from above; where a >= 0 a line through 0 from below.

        Args:
            a: shape (B or 1, S, ...).
            z: bounds of the input, shapes (B, ...).

        Returns:
            (a',), shape (B, S, ...), and c, shape (B, S).
        """
        chord, offset = self.chord(z)
        line = self.either(z.upper > -z.lower, z)
        part = a * torch.where(a > 0, line[:, None], chord[:, None])
        return (part,), inner(a.clamp(max=0).flatten(2), offset.flatten(1))

    def chord(self, z: Interval) -> tuple[Tensor, Tensor]:
        """Slope and offset of the line through both ends, exact on either side of 0."""
        unstable = (z.lower < 0) & (z.upper > 0)
        width = torch.where(unstable, z.upper - z.lower, 1.0)
        side = self.either(z.lower >= 0, z)
        slope = torch.where(unstable, (z.upper - self.slope * z.lower) / width, side)
        return slope, torch.where(unstable, z.upper * (1 - slope), 0.0)

    def either(self, above: Tensor, z: Interval) -> Tensor:
        """1 where `above`, the slope below 0 elsewhere, in the precision of z: numbers in `torch.where` are float32."""
        return torch.ones_like(z.lower).where(above, self.slope)

    def slopes(self, a: Interval, z: Interval) -> tuple[Interval, ...]:
        """a times the derivative, which lies between a and 1 where z may have either sign."""
        least, most = (self.either(open_, z)[:, None] for open_ in (z.lower >= 0, z.upper > 0))
        lower = torch.where(a.lower < 0, a.lower * most, a.lower * least)
        upper = torch.where(a.upper > 0, a.upper * most, a.upper * least)
        return (Interval(lower, upper),)

    def lipschitz(self, of_input: float) -> float:
        """Constant of h in l2: that of z."""
        return of_input
