"""Bounds of linear functions of the outputs of a network, carried back from output to output until the image.

Zhang et al., "Efficient Neural Network Robustness Certification with General Activation Functions", NeurIPS 2018,
arXiv:1811.00866 (CROWN).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from oodattack.bounds.affine import Affine
from oodattack.bounds.ball import Interval, inner, least, spread
from oodattack.bounds.reach import ROOM, Reach, widest

FEW = 64  # linear functions, at most, for which the cut of an l2 ball with the box is looked at closely


def linear_bounds(found: Reach, a: Tensor, at: int) -> Interval:
    """Bounds of <a_s, h> over the ball, h the output with number `at`.

    Args:
        found: the network on the ball, with boxes up to `at`.
        a: shape (S, D) or (B or 1, S, D).
        at: number of an output with D entries.

    Returns:
        Shapes (B, S).
    """
    a = (a[None] if a.ndim == 2 else a).to(found.ball.x)
    return Interval(_lower(found, a, at), -_lower(found, -a, at))


def _lower(found: Reach, a: Tensor, at: int) -> Tensor:
    size = max(1, ROOM // (len(found.ball.x) * widest(found.graph, at)))
    return torch.cat([_best(found, part, at) for part in a.split(size, dim=1)], dim=1)


def _best(found: Reach, a: Tensor, at: int) -> Tensor:
    """The largest of the lower bounds that a backward pass meets."""
    best = a.new_full((len(found.ball.x), a.shape[1]), -torch.inf)
    for bound in _backwards(found, a.view(*a.shape[:2], *found.graph.shape(at)), at):
        best = best.maximum(bound)
    return best


def _backwards(found: Reach, a: Tensor, at: int, *, by_box: bool = True) -> Iterator[Tensor]:
    """Lower bounds of <a, h>: where the first activation is met and <a, h> is an exact sum, by the boxes of its terms
    and by their Lipschitz constants; last on the ball.
    """
    waiting = {at: a}
    constant = a.new_zeros(1, a.shape[1])
    for number in range(at, 0, -1):
        if number not in waiting:
            continue
        step = found.graph.steps[number - 1]
        if by_box and not isinstance(step.does, Affine):
            yield constant + sum(_on_box(part, found.boxes[i]) for i, part in waiting.items())
            yield constant + sum(_nearby(found, part, i) for i, part in waiting.items())
            if not found.deep:
                return
            by_box = False
        parts, more = step.does.lower(waiting.pop(number), *[found.boxes[i] for i in step.inputs])
        constant = constant + more
        for i, part in zip(step.inputs, parts, strict=True):
            waiting[i] = waiting[i] + part if i in waiting else part
    if waiting:  # none is left where every coefficient was 0
        constant = constant + least(found.ball, waiting[0].flatten(2), closely=a.shape[1] <= FEW)
    yield constant


def _on_box(a: Tensor, box: Interval) -> Tensor:
    """min <a, h> over h in a box, shape (B, S)."""
    low, high = (part.flatten(1) for part in box)
    return inner(a.flatten(2), (low + high) / 2) - inner(a.flatten(2).abs(), (high - low) / 2)


def _nearby(found: Reach, a: Tensor, at: int) -> Tensor:
    """<a, h(x)> - ||a||_2 L eps, shape (B, S)."""
    a = a.flatten(2)
    far: Tensor = spread(found.ball, "l2")[:, None] * found.constants[at] * torch.linalg.vector_norm(a, dim=2)
    return inner(a, found.values[at].flatten(1)) - far


def on_the_ball(found: Reach, a: Tensor, at: int) -> Tensor:
    """The bound on the ball alone: what the boxes say of an output's own entries is known."""
    *_, bound = _backwards(found, a.view(*a.shape[:2], *found.graph.shape(at)), at, by_box=False)
    return bound
