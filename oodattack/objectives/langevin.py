"""Stochastic gradient Langevin dynamics: chains that climb a network's density, as in JEM, Grathwohl et al., "Your
Classifier is Secretly an Energy Based Model and You Should Treat it Like One", ICLR 2020, arXiv:1912.03263."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor


def langevin(
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    noise: float,
    generator: Generator,
) -> Tensor:
    """x <- x + alpha * grad_x log p(x) + sigma * z with z ~ N(0, 1), `steps` times, Alg. 1 of Grathwohl et al. 2020.

    With sigma^2 = 2 alpha the chain would sample p for alpha -> 0; JEM takes sigma far smaller, as do others.

    Args:
        log_density: log p(x) up to a constant, (B, ...) -> (B,).
        x: where the chains begin, shape (B, ...).
        steps: >= 1.
        step_size: alpha > 0, in squared units of `x`.
        noise: sigma >= 0, in units of `x`.
        generator: source of z, drawn on its own device.

    Returns:
        Where the chains end, shape of `x`, without a graph. Parameters of the density get no gradient.

    Raises:
        ValueError: a number out of range.
    """
    if steps < 1 or not step_size > 0 or not noise >= 0:
        raise ValueError(
            f"`steps` must be >= 1, `step_size` > 0 and `noise` >= 0, got {steps}, {step_size} and {noise}. "
            "The authors take 20, 1 and 0.01 for inputs in [-1, 1]."
        )
    x = x.detach()
    for _ in range(steps):
        with torch.enable_grad():
            point = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(log_density(point).sum(), point)
        z = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
        x = x + step_size * gradient + noise * z.to(x.device)
    return x
