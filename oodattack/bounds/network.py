"""A classifier made ready for bounds: its steps and their Lipschitz constants, found once for many balls."""

import math
from typing import NamedTuple

from torch import Tensor

from oodattack.bounds.affine import Shape, matrix, rearranging, scaling
from oodattack.bounds.ball import Ball
from oodattack.bounds.bend import Bend
from oodattack.bounds.forward import reach
from oodattack.bounds.graph import Graph, extended
from oodattack.bounds.reach import Reach
from oodattack.bounds.slopes import constants_of
from oodattack.bounds.trace import trace
from oodattack.classifier import Classifier


class Network(NamedTuple):
    """Steps of a network.

    Attributes:
        graph: the steps.
        constants: Lipschitz constant of every output, l2 to l2.
        deep: carry linear bounds back to the image.
        at: number of the output that a score is made of.
    """

    graph: Graph
    constants: list[float]
    deep: bool
    at: int

    def on(self, ball: Ball) -> Reach:
        """The network on a ball."""
        return reach(self.graph, ball, constants=self.constants, deep=self.deep)


def network(net: Classifier, image: Shape, *, deep: bool) -> Network:
    """The network up to its logits.

    Raises:
        NoBounds: as `trace`.
    """
    graph = trace(net, image)
    return Network(graph, constants_of(graph), deep, graph.logits)


def with_head(own: Network, weight: Tensor, bias: Tensor | None, *, clip: float | None = None) -> Network:
    """The network with another head: W min(z, c) + b of the features z, as steps of its own.

    Args:
        own: the network.
        weight: W, shape (K, D).
        bias: b, shape (K,), or None.
        clip: c; None leaves the features as they are.
    """
    graph, at = own.graph, own.graph.features
    one = weight.new_ones(1, 1)
    if clip is not None:  # min(z, c) = c - relu(c - z)
        for does in (scaling(-one, clip * one, graph.shape(at)), Bend(0.0), scaling(-one, clip * one, graph.shape(at))):
            graph = extended(graph, does, at)
            at = len(graph.steps)
    if len(shape := graph.shape(at)) > 1:  # of a 1 x 1 convolution
        graph = extended(graph, rearranging(lambda z: z.flatten(1), [shape]), at, (math.prod(shape),))
        at = len(graph.steps)
    graph = extended(graph, matrix(weight, bias, graph.shape(at)), at, (len(weight),))
    return Network(graph, constants_of(graph), own.deep, len(graph.steps))
