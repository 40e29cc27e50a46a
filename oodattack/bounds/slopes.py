"""Lipschitz constants: of a network everywhere, and of linear functions of its outputs on a ball.

On a ball: the chain rule with an interval for every derivative, from the output back to the image; exact where all
units keep their sign. After Weng et al., "Towards Fast Computation of Certified Robustness for ReLU Networks", ICML
2018, arXiv:1804.09699 (Fast-Lip). Everywhere: the product of the layers' spectral norms, of which upper bounds are
taken; Szegedy et al., "Intriguing properties of neural networks", arXiv:1312.6199.
"""

import torch
from torch import Tensor

from oodattack.bounds.ball import Interval
from oodattack.bounds.graph import Graph
from oodattack.bounds.reach import ROOM, Reach, widest


def gradients(found: Reach, a: Tensor, at: int) -> Interval:
    """Boxes around the gradients of <a_s, h> to the image, all over the ball.

    Args:
        found: the network on the ball.
        a: shape (S, D).
        at: number of an output with D entries.

    Returns:
        Shapes (B, S, pixels).
    """
    start = (
        a.to(found.ball.x)
        .view(1, len(a), *found.graph.shape(at))
        .expand(len(found.ball.x), *[-1] * (1 + len(found.graph.shape(at))))
    )
    waiting = {at: Interval(start, start)}
    for number in range(at, 0, -1):
        if number not in waiting:
            continue
        step = found.graph.steps[number - 1]
        parts = step.does.slopes(waiting.pop(number), *[found.boxes[i] for i in step.inputs])
        for i, part in zip(step.inputs, parts, strict=True):
            waiting[i] = Interval(*[x + y for x, y in zip(waiting[i], part, strict=True)]) if i in waiting else part
    return Interval(*[part.flatten(2) for part in waiting[0]])


def local_lipschitz(found: Reach, a: Tensor, at: int) -> Tensor:
    """L_s with |<a_s, h(x')> - <a_s, h(x'')>| <= L_s ||x' - x''|| in the ball, in its norm; shape (B, S).

    The dual norm of the largest absolute gradient: l1 for linf, l2 for l2.
    """
    found_parts = []
    for part in a.split(max(1, ROOM // (len(found.ball.x) * widest(found.graph, at)))):
        low, high = gradients(found, part, at)
        order = 1 if found.ball.norm == "linf" else 2
        found_parts.append(torch.linalg.vector_norm(low.abs().maximum(high.abs()), order, dim=2))
    return torch.cat(found_parts, dim=1)


def constants_of(graph: Graph) -> list[float]:
    """L_i with ||h_i(x') - h_i(x)||_2 <= L_i ||x' - x||_2 for all images and every output: norms of layers, multiplied.

    A sum has the sum of the constants of its terms.
    """
    constants = [1.0]
    for step in graph.steps:
        constants.append(step.does.lipschitz(*[constants[i] for i in step.inputs]))
    return constants
