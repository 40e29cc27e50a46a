"""Gradients of scores that hide theirs: the same code with `no_grad`, `detach` and their like undone while it runs.

A score under `torch.no_grad()` is no harder to attack than without it. What is undone here leaves every value as it is;
whether the gradient that appears is that of the score, finite differences of the untouched score say before it is used.
The slope of a score that rounds is zero: one that passes straight through the rounding is used where the score goes up
along it (backward pass differentiable approximation, Athalye et al., arXiv:1802.00420).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.detector import Latent, Score, Surrogate
from oodattack.keep_graph.mode import KeepGraph, deaf_inference_mode
from oodattack.metrics import same_scores
from oodattack.probe import AGREEING, ROWS, gradient, plain_scores, probe, proven

__all__ = ["NAME", "THROUGH", "KeepGraph", "Kept", "keeping_graph", "reaches", "through_rounding"]

NAME = "own score, its graph kept"  # in reports
THROUGH = "own score, straight through its rounding"
FAR = 8 / 255  # change of a pixel that is to show where a rounded score goes


@dataclass(frozen=True)
class Kept:
    """A function whose graph is kept wherever a gradient is asked for; equal for equal functions.

    Attributes:
        f: any callable on images.
        seed: of the random numbers that `f` draws, the same at every call; None where it draws none.
        through: whether that gradient passes straight through what rounds.
    """

    f: Callable[[Tensor], Tensor]
    seed: int | None = None
    through: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), with a gradient if `x` asks for one."""
        if self.seed is not None:
            with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
                torch.manual_seed(self.seed)
                return Kept(self.f, through=self.through)(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.f(x)
        with deaf_inference_mode(), KeepGraph(through=self.through):
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


def through_rounding(score: Score, x: Tensor) -> Surrogate | None:
    """The score with a gradient straight through what rounds, if it goes up along that; else None.

    Of the rows whose score is another 8/255 along the gradient's signs than against them, at least 75 % must be higher
    along them. Costs two backward and at most 5 forward passes over at most 16 rows.

    Args:
        score: any callable (B, C, H, W) -> (B,) without a gradient, or with one that is zero.
        x: a few images, shape (N, C, H, W), values in [0, 1].
    """
    through = Kept(score, through=True)
    if not reaches(through, x[:1]):
        return None
    some = x[evenly(len(x), ROWS).to(x.device)]
    grad, value = gradient(through, some)
    plain = plain_scores(score, some)
    if grad is None or value is None or not grad.isfinite().all() or not same_scores(value, plain, plain):
        return None
    ahead, behind = (plain_scores(score, (some + way * FAR * grad.sign()).clamp(0, 1)) for way in (1, -1))
    moved = ahead != behind
    if not moved.any() or (ahead > behind)[moved].double().mean() < AGREEING:
        return None
    return Surrogate(THROUGH, through, exact=True)


def reaches(f: Latent, x: Tensor) -> bool:
    """Whether autograd finds a way from the value of `f` to its input."""
    z = x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(f(z).sum(), z, allow_unused=True)
    except Exception:  # whatever user code does that autograd cannot follow
        return False
    return grad is not None
