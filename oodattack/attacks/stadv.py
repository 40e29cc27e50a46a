"""Every pixel looks elsewhere: Xiao et al., "Spatially Transformed Adversarial Examples", arXiv:1801.02612."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from oodattack.attack import Attack, Seen
from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

FIRST_STEP = 0.5  # share of the limit; falls to zero along a straight line

Render = Callable[[Tensor, Tensor], Tensor]  # clean inputs (B, ...), parameters (B, ...) -> inputs (B, ...)


class State(NamedTuple):
    """The parameters whose picture was sent."""

    parameters: Tensor  # (B, ...), in [-limit, limit]
    steps: int
    t: int


def stadv(*, limit: float) -> Attack:
    """Sign steps on a flow field f, |f_i| <= limit: pixel i takes the bilinear value of x at its own place plus f_i.

    White box: the gradient at the image goes through the sampling to the flow. `init = "clean"` starts at no flow,
    anything else at a flow drawn uniformly.

    Args:
        limit: largest flow along each axis, share of the image side, >= 0; 0 leaves the image (up to rounding).

    Raises:
        ValueError: `limit` is negative.

    Differs from the paper: the flow is bounded, as in later evaluations, instead of penalised for being rough, and
    sign steps that shrink replace L-BFGS.
    """
    if not limit >= 0:
        raise ValueError(f"`limit` must be >= 0, got {limit}. Write 0.025 for a flow of 2.5 % of the side.")
    return climb(warp, lambda x: (2, *x.shape[2:]), limit)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Images (B, C, H, W) seen through a flow (B, 2, H, W): across and down, share of the side. Edges are repeated."""
    still = torch.eye(2, 3, device=x.device, dtype=x.dtype).expand(len(x), -1, -1)
    at = affine_grid(still, list(x.shape), align_corners=False) + 2 * flow.movedim(1, -1)  # the grid spans 2
    return grid_sample(x, at, padding_mode="border", align_corners=False)


def climb(render: Render, shape: Callable[[Tensor], tuple[int, ...]], limit: float) -> Attack:
    """p <- clamp(p + length sign(dL/dp), -limit, limit) on parameters p of a picture, by the chain rule.

    Args:
        render: differentiable in p. Rows must not influence one another.
        shape: of one row's parameters, from the batch of inputs.
        limit: largest |p|, >= 0.
    """

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, steps: int) -> tuple[Tensor, State]:
        size = shape(x)
        drawn = threat.init != "clean"
        parameters = limit * (2 * random.uniform(size).to(x) - 1) if drawn else x.new_zeros(len(x), *size)
        return render(x, parameters), State(parameters, steps, 0)

    def step(seen: Seen, x: Tensor, _threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        with torch.enable_grad():
            leaf = s.parameters.detach().requires_grad_()
            (slope,) = torch.autograd.grad(render(x, leaf), leaf, grad_outputs=seen.grad.to(x))
        length = FIRST_STEP * limit * (1 - s.t / s.steps)
        parameters = (s.parameters + length * slope.sign()).clamp(-limit, limit)
        return render(x, parameters), State(parameters, s.steps, s.t + 1)

    return Attack(start, step)
