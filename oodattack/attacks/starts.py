"""First points of a search inside a ball."""

from collections.abc import Callable

from torch import Tensor

from oodattack.geometry import RowRandom, ball, sphere
from oodattack.threat import ThreatModel

Draw = Callable[..., Tensor]


def first_point(x: Tensor, threat: ThreatModel, random: RowRandom) -> Tensor:
    """x itself, or x plus noise drawn in the ball or on its surface, as `threat.init` says. Shape of `x`."""
    if threat.init == "clean":
        return x
    return x + noise(random, x, threat, ball if threat.init == "ball" else sphere)


def noise(random: RowRandom, x: Tensor, threat: ThreatModel, draw: Draw) -> Tensor:
    """A draw in the ball of a threat model; for a patch, of any value each pixel."""
    norm = "linf" if threat.norm == "patch" else threat.norm
    return draw(random, x.shape[1:], threat.reach, norm).to(x)
