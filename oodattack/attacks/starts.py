"""First points of a search inside a ball."""

from torch import Tensor

from oodattack.geometry import RowRandom, ball, sphere
from oodattack.threat import ThreatModel


def first_point(x: Tensor, threat: ThreatModel, random: RowRandom) -> Tensor:
    """x itself, or x plus noise drawn in the ball or on its surface, as `threat.init` says. Shape of `x`."""
    if threat.init == "clean":
        return x
    draw = ball if threat.init == "ball" else sphere
    return x + draw(random, x.shape[1:], threat.eps, threat.norm).to(x)


def wide(row: Tensor, x: Tensor) -> Tensor:
    """Reshape one number a row, (B,), so that it broadcasts over x (B, ...)."""
    return row.view(-1, *[1] * (x.ndim - 1))
