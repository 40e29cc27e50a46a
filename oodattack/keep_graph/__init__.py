"""Gradients of scores that hide theirs: the same code with `no_grad`, `detach` and their like undone while it runs.

A score under `torch.no_grad()` is no harder to attack than without it. What is undone here leaves every value as it is;
whether the gradient that appears is that of the score, finite differences of the untouched score say before it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.detector import Latent, Score, Surrogate
from oodattack.keep_graph.mode import KeepGraph, deaf_inference_mode
from oodattack.probe import probe, proven

__all__ = ["NAME", "KeepGraph", "Kept", "keeping_graph", "reaches"]

NAME = "own score, its graph kept"  # in reports


@dataclass(frozen=True)
class Kept:
    """A function whose graph is kept wherever a gradient is asked for; equal for equal functions.

    Attributes:
        f: any callable on images.
        seed: of the random numbers that `f` draws, the same at every call; None where it draws none.
    """

    f: Callable[[Tensor], Tensor]
    seed: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), with a gradient if `x` asks for one."""
        if self.seed is not None:
            with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
                torch.manual_seed(self.seed)
                return Kept(self.f)(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.f(x)
        with deaf_inference_mode(), KeepGraph():
            return self.f(x.clone())  # no leaf: leaves are what a score may cut off


def keeping_graph(score: Score, x: Tensor, *, seed: int) -> Surrogate | None:
    """The score with its graph kept, if finite differences of the score confirm what gradient that has; else None.

    A score that draws random numbers is looked at with the same ones at every call, if its own gradient is cut off.

    Args:
        score: any callable (B, C, H, W) -> (B,); its `latent` comes along, if it has one without a gradient.
        x: a few images, shape (N, C, H, W), values in [0, 1].
        seed: of the directions in which differences are taken, and of such draws.
    """
    if not reaches(Kept(score), x[:1]):
        return None
    found = probe(Kept(score), x, seed=seed)
    if not found.repeatable and not reaches(score, x[:1]):
        found = probe(Kept(score, seed), x, seed=seed)._replace(row_independent=True)  # rows draw by their place
    if not proven(found):
        return None
    latent: Latent | None = getattr(score, "latent", None)
    cut = latent is not None and not reaches(latent, x[:1]) and reaches(Kept(latent), x[:1])
    return Surrogate(NAME, Kept(score), Kept(latent) if latent is not None and cut else None, exact=True)


def reaches(f: Latent, x: Tensor) -> bool:
    """Whether autograd finds a way from the value of `f` to its input."""
    z = x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(f(z).sum(), z, allow_unused=True)
    except Exception:  # whatever user code does that autograd cannot follow
        return False
    return grad is not None
