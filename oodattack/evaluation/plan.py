"""What a search differentiates, and which detectors can share one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.detector import Detector, Surrogate
from oodattack.threat import ThreatModel


class Quarry(NamedTuple):
    """What is differentiated. Detectors whose quarries compare equal are attacked once.

    Attributes:
        f: scores (B,) for aims on the score, latents (B, D) for matching.
        surrogate: name of the stand-in, None where `f` is the detector's own.
        exact: the order (or the value, for latents) is the detector's own.
    """

    f: Callable[[Tensor], Tensor]
    surrogate: str | None
    exact: bool


class Unfit(Exception):
    """A threat model that a detector cannot be asked about; the message says why."""


def quarry(detector: Detector, threat: ThreatModel, *, blind: bool) -> Quarry:
    """What an attack within `threat` on `detector` differentiates or, if it is `blind`, asks.

    Raises:
        Unfit: a latent is to be matched that the detector does not have.
    """
    stand_in: Surrogate | None = None if blind else getattr(detector, "surrogate", None)
    if threat.match in (None, "score"):
        return Quarry(stand_in.score, stand_in.name, stand_in.exact) if stand_in else Quarry(detector, None, True)
    latent = getattr(detector, "latent", None)
    if latent is None:
        raise Unfit("the detector gives no `latent` to match")
    if threat.match == "logits" and not getattr(detector, "of_logits", False):
        raise Unfit("its score is not a function of the logits")
    if stand_in is not None and stand_in.latent is not None:
        return Quarry(stand_in.latent, stand_in.name, False)
    return Quarry(latent, None, True)


def measured(detector: Detector, threat: ThreatModel) -> Callable[[Tensor], Tensor]:
    """The detector's own latent or score, on which MAPE is measured."""
    return detector if threat.match == "score" else detector.latent  # type: ignore[attr-defined]


def differentiable(f: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether `f` has a gradient with respect to its input at all. It has none where it works only without autograd."""
    z = x[:2].detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            out = f(z)
            if not out.requires_grad:
                return False
            (grad,) = torch.autograd.grad(out.sum(), z, allow_unused=True)
    except Exception:  # user code such as x.numpy(), which has scored the same images under no_grad
        return False
    return grad is not None
