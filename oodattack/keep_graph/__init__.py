"""Gradients of scores that hide theirs: the same code with `no_grad`, `detach` and their like undone while it runs.

A score under `torch.no_grad()` is no harder to attack than without it. What is undone here leaves every value as it is;
whether the gradient that appears is that of the score, finite differences of the untouched score say before it is used.
A score that rounds has slope zero, and one whose images go through NumPy, PIL or a codec has none: a gradient that
passes straight through those is used where the score goes up along it (backward pass differentiable approximation,
Athalye et al., arXiv:1802.00420).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.detector import Latent, Score, Surrogate
from oodattack.geometry import row_random
from oodattack.keep_graph.mode import KeepGraph, deaf_inference_mode
from oodattack.keep_graph.returned import Returned, Shape, View
from oodattack.metrics import same_scores
from oodattack.probe import AGREEING, ROWS, gradient, plain_scores, probe, proven

__all__ = ["NAME", "PREPROCESSING", "ROUNDING", "KeepGraph", "Kept", "keeping_graph", "reaches", "straight_through"]

NAME = "own score, its graph kept"  # in reports
ROUNDING = "own score, straight through its rounding"
PREPROCESSING = "own score, straight through its preprocessing"
FAR = (8 / 255, 2 / 255)  # changes of a pixel that are to show where a score goes: past what rounds, before it turns


@dataclass(frozen=True)
class Kept:
    """A function whose graph is kept wherever a gradient is asked for; equal for equal functions.

    Attributes:
        f: any callable on images.
        seed: of the random numbers that `f` draws, the same at every call; None where it draws none.
        rounding: whether that gradient passes straight through what rounds.
        views: of images that leave PyTorch and come back, by which the gradient passes straight through that.
    """

    f: Callable[[Tensor], Tensor]
    seed: int | None = None
    rounding: bool = False
    views: Mapping[Shape, View] = field(default_factory=dict, compare=False)

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), with a gradient if `x` asks for one."""
        if self.seed is not None:
            with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
                torch.manual_seed(self.seed)
                return replace(self, seed=None)(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.f(x)
        images = x.clone()  # no leaf: leaves are what a score may cut off
        returned = Returned(images, self.views) if self.views else None
        with deaf_inference_mode(), KeepGraph(rounding=self.rounding, returned=returned):
            value = self.f(images)
        return value if value.requires_grad or not self.views else value + 0 * images.flatten(1).sum(1)


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


def straight_through(score: Score, x: Tensor, *, seed: int) -> Surrogate | None:
    """The score with a gradient straight through what rounds, or what leaves PyTorch, if it goes up along that.

    Of the rows whose score is another 8/255 along the gradient's signs than against them, or else 2/255, at least 75 %
    must be higher along them, and by more than it changes along random signs, or along a gradient that goes through
    nothing. A score that draws random numbers is looked at with the same ones at every call.

    Args:
        score: any callable (B, C, H, W) -> (B,) whose own gradient is missing, zero or not its own.
        x: a few images, shape (N, C, H, W), values in [0, 1]; at most 16 are taken.
        seed: of those signs, and of such draws.
    """
    some = x[evenly(len(x), ROWS).to(x.device)]
    signs = 2.0 * row_random(seed, "through", range(len(some)), x.device, x.dtype).integers(2, x.shape[1:]) - 1
    for name, through in _ways_through(score, some):
        for kept in (through, replace(through, seed=seed)):
            rises = zip(_rises(kept, some), _rises(Kept(score, kept.seed), some), strict=True)
            for far, (rise, without) in zip(FAR, rises, strict=True):
                moved = rise != 0
                least = torch.maximum(without, _difference(kept, some, far * signs).abs())
                if moved.any() and (rise > least)[moved].double().mean() >= AGREEING:
                    return Surrogate(name, kept, exact=True)
    return None


def _ways_through(score: Score, x: Tensor) -> Iterator[tuple[str, Kept]]:
    """The score with gradients that get to its input, by the names of what they pass."""
    if reaches(rounding := Kept(score, rounding=True), x[:1]):
        yield ROUNDING, rounding
    if views := views_of(score, x):
        yield PREPROCESSING, Kept(score, views=views)


def views_of(score: Score, x: Tensor) -> Mapping[Shape, View]:
    """What comes back of images that leave PyTorch inside a score; nothing where none do, or where it fails."""
    images = x.detach().clone().requires_grad_() * 1
    returned = Returned(images)
    try:
        with torch.enable_grad(), deaf_inference_mode(), KeepGraph(returned=returned):
            score(images)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # whatever user code does with a graph
        return {}
    return returned.views


def _rises(f: Score, x: Tensor) -> Iterator[Tensor]:
    """How much higher a score is along the signs of its gradient than against them, at each of `FAR`, shape (B,).

    Zeros where it has no gradient, or is not the same with it as without.
    """
    grad, value = gradient(f, x)
    plain = plain_scores(f, x)
    if grad is None or value is None or not grad.isfinite().all() or not same_scores(value, plain, plain):
        yield from (torch.zeros_like(plain) for _ in FAR)
        return
    yield from (_difference(f, x, far * grad.sign()) for far in FAR)


def _difference(f: Score, x: Tensor, delta: Tensor) -> Tensor:
    """f(x + delta) - f(x - delta), of images, shape (B,)."""
    ahead, behind = (plain_scores(f, (x + way * delta).clamp(0, 1)) for way in (1, -1))
    return ahead - behind


def reaches(f: Latent, x: Tensor) -> bool:
    """Whether autograd finds a way from the value of `f` to its input."""
    return gradient(f, x)[0] is not None
