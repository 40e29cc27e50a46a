"""What a search differentiates, and which detectors can share one."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from oodattack.attack import Attack, Whole
from oodattack.attacks import find_attack
from oodattack.detector import Detector, Surrogate
from oodattack.detectors.msp import LogOdds
from oodattack.threat import ThreatModel


class Quarry(NamedTuple):
    """What is differentiated. Detectors whose quarries compare equal are attacked once.

    Attributes:
        f: scores (B,) for aims on the score, latents or logits (B, D) for those on them.
        surrogate: name of the stand-in, None where `f` is the detector's own.
        exact: the order (or the value, for latents) is the detector's own.
        judge: where `f` is not meant to follow the score at all, the detector: it alone says which point is best.
    """

    f: Callable[[Tensor], Tensor]
    surrogate: str | None
    exact: bool
    judge: Detector | None = None


class Unfit(Exception):
    """A threat model that a detector cannot be asked about; the message says why."""


def quarry(detector: Detector, threat: ThreatModel, *, blind: bool) -> Quarry:
    """What an attack within `threat` on `detector` differentiates or, if it is `blind`, asks.

    Raises:
        Unfit: a latent or logits are to be followed that the detector does not have.
    """
    stand_in: Surrogate | None = None if blind else getattr(detector, "surrogate", None)
    if threat.objective in ("logits", "class-logits", "misclassify"):
        return on_logits(detector, threat)
    if threat.objective == "latent":
        return Quarry(latent_of(detector, stand_in), None, exact=False, judge=detector)
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


def on_logits(detector: Detector, threat: ThreatModel) -> Quarry:
    """The logits of the network behind the detector, or their log-odds."""
    logits = getattr(getattr(detector, "net", None), "logits", None)
    if logits is None:
        raise Unfit("the detector has no `net` whose logits to follow")
    if threat.objective == "misclassify":
        return Quarry(logits, None, exact=True)
    if threat.objective == "class-logits":
        return Quarry(logits, None, exact=False, judge=detector)
    return Quarry(LogOdds(logits, 1.0), "log-odds of the network's logits", exact=False, judge=detector)


def latent_of(detector: Detector, stand_in: Surrogate | None) -> Callable[[Tensor], Tensor]:
    """A latent to bring onto that of another image: the detector's, differentiable if possible, or its network's."""
    own = getattr(detector, "latent", None) or getattr(getattr(detector, "net", None), "features", None)
    found = (stand_in.latent if stand_in else None) or own
    if found is None:
        raise Unfit("the detector gives no `latent` to match")
    return found


def measured(detector: Detector, threat: ThreatModel) -> Callable[[Tensor], Tensor]:
    """The detector's own latent or score, on which MAPE is measured."""
    return detector if threat.match == "score" else detector.latent  # type: ignore[attr-defined]


def is_blind(limits: ThreatModel) -> bool:
    """Whether the search uses no gradient."""
    attack: Attack | Whole = find_attack(limits)
    return not attack.white_box


def blinded(limits: ThreatModel) -> ThreatModel:
    """The same limits and budget searched without gradients, for what has none: Square, or random draws."""
    changes = {"attack": "square" if limits.norm in ("linf", "l2") else "random-search", "step_size": None}
    if limits.aim == "cross":
        changes["attack"] = "rays" if limits.norm == "linf" else "hop-skip-jump"
    return limits.model_copy(update=changes)
