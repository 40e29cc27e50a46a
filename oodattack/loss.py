"""What an attack maximises, row by row."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Judged(NamedTuple):
    """What a loss says that leads somewhere, but knows as well what points are worth."""

    value: Tensor  # (B,), to follow
    worth: Tensor  # (B,), to keep the best by


Loss = Callable[[Tensor, Tensor], Tensor]  # inputs (B, ...) and their row numbers (B,) -> values (B,) to maximise
AnyLoss = Callable[[Tensor, Tensor], Tensor | Judged]


def unjudged(loss: AnyLoss) -> Loss:
    """What a loss follows, and nothing else."""

    def followed(x: Tensor, rows: Tensor) -> Tensor:
        told = loss(x, rows)
        return told.value if isinstance(told, Judged) else told

    return followed
