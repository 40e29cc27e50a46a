"""A network as a list of steps, each of which knows its bounds."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from oodattack.bounds.affine import Affine, Shape
from oodattack.bounds.bend import Bend
from oodattack.bounds.peak import Peak


class Step(NamedTuple):
    """One step of a network.

    Attributes:
        does: what is computed.
        inputs: numbers of the steps whose outputs it takes; 0 is the image.
        shape: of the output, one row.
    """

    does: Affine | Bend | Peak
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Graph:
    """Steps in an order in which they can be computed.

    Attributes:
        image: shape of one row.
        steps: the outputs are numbered from 1; 0 is the image.
        logits: number of the output that the logits are.
        features: number of the output that the head's input is.
    """

    image: Shape
    steps: tuple[Step, ...]
    logits: int
    features: int

    def shape(self, at: int) -> Shape:
        """Of the output with that number, one row."""
        return self.steps[at - 1].shape if at else self.image

    def points(self, x: Tensor) -> list[Tensor]:
        """All outputs for images x, shape (N, *image), in float64."""
        found = [x]
        for step in self.steps:
            found.append(step.does.point(*[found[i] for i in step.inputs]))
        return found


def extended(graph: Graph, does: Affine | Bend, at: int, shape: Shape | None = None) -> Graph:
    """The graph with one step more: of the output `at`, whose shape it keeps unless another is given."""
    step = Step(does, (at,), graph.shape(at) if shape is None else shape)
    return replace(graph, steps=(*graph.steps, step))
