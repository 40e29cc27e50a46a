"""Boxes around the outputs of a network, one after the other from the image on.

Intervals: Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models",
arXiv:1810.12715. What goes into an activation is bounded again by linear functions, see `backward`.
"""

import torch

from oodattack.bounds.affine import Affine
from oodattack.bounds.backward import on_the_ball
from oodattack.bounds.ball import Ball, Interval, around
from oodattack.bounds.graph import Graph
from oodattack.bounds.reach import ROOM, Reach, is_affine, widest

REFINED = 1024  # entries of an output that are bounded one by one, at most: each costs a backward pass


def reach(graph: Graph, ball: Ball, *, constants: list[float], deep: bool) -> Reach:
    """Bounds of every output, from the image on.

    Args:
        graph: the network.
        ball: B rows.
        constants: Lipschitz constants of the outputs, see `constants_of`.
        deep: carry linear bounds back to the image.
    """
    found = Reach(graph, ball, [around(ball)], graph.points(ball.x), constants, deep)
    bent = {i for step in graph.steps if not isinstance(step.does, Affine) for i in step.inputs}
    for number, step in enumerate(graph.steps, start=1):
        found.boxes.append(step.does.interval(*[found.boxes[i] for i in step.inputs]))
        if number in bent and (deep or (ball.norm == "l2" and is_affine(graph, number))):
            found.boxes[number] = _refined(found, number)
    return found


def _refined(found: Reach, at: int) -> Interval:
    """Bounds of the entries that may have either sign, where there are not too many; the others as they are.

    First of the end between an entry and 0; of the other one only where 0 is still inside.
    """
    low, high = (part.flatten(1).clone() for part in found.boxes[at])
    sign = torch.where(found.values[at].flatten(1) > 0, 1.0, -1.0).to(low)
    for side in (sign, -sign):
        open_ = (low < 0) & (high > 0)
        count = int(open_.sum(dim=1).max())
        if count > REFINED and not is_affine(found.graph, at):
            break
        chosen = (
            open_.double().topk(count, dim=1).indices
        )  # (B, count); rows with fewer have some of the others besides
        for part in chosen.split(max(1, ROOM // (len(low) * widest(found.graph, at))), dim=1) if count else ():
            towards = side.gather(1, part)
            a = low.new_zeros(*part.shape, low.shape[1]).scatter_(2, part[..., None], towards[..., None])
            ends = on_the_ball(found, a, at)
            low.scatter_(1, part, low.gather(1, part).maximum(torch.where(towards > 0, ends, -torch.inf)))
            high.scatter_(1, part, high.gather(1, part).minimum(torch.where(towards < 0, -ends, torch.inf)))
    shape = found.boxes[at].lower.shape
    return Interval(low.view(shape), high.view(shape))
