"""What is known of a network on a ball."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.bounds.affine import Affine
from oodattack.bounds.ball import Ball, Interval
from oodattack.bounds.graph import Graph

ROOM = 2**22  # numbers held at a time, for one tensor


@dataclass(frozen=True)
class Reach:
    """A network on a ball.

    Attributes:
        graph: the network.
        ball: where the images are, B rows.
        boxes: bounds of every output, shapes (B, ...).
        values: outputs at the centres, shapes (B, ...).
        constants: Lipschitz constants of the outputs, l2 to l2.
        deep: linear bounds are carried back to the image, not only to the last activation.
    """

    graph: Graph
    ball: Ball
    boxes: list[Interval]
    values: list[Tensor]
    constants: list[float]
    deep: bool


def is_affine(graph: Graph, at: int) -> bool:
    """Whether an output is an affine function of the image."""
    return at == 0 or (
        isinstance(graph.steps[at - 1].does, Affine) and all(is_affine(graph, i) for i in graph.steps[at - 1].inputs)
    )


def widest(graph: Graph, at: int) -> int:
    """Numbers a row of the largest output up to `at`."""
    return max(torch.Size(graph.shape(i)).numel() for i in range(at + 1))
