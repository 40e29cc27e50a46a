"""What a search follows, and which detectors can share one."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from oodattack.attack import Attack, Whole
from oodattack.attacks import find_attack
from oodattack.detector import Detector, Latent, Surrogate
from oodattack.detectors.energy import FreeEnergy, energy
from oodattack.detectors.msp import LogOdds, log_odds
from oodattack.detectors.net import OnLogits
from oodattack.keep_graph import reaches
from oodattack.threat import OUTSIDE, ThreatModel


class OnePass(NamedTuple):
    """What a search follows and the score of the detector, where one pass through the network gives both.

    Attributes:
        logits: (B, C, H, W) -> (B, K).
        followed: of logits, what the guide follows: (B,) or (B, K).
        score: of logits, the detector's own (B,).
    """

    logits: Latent
    followed: Callable[[Tensor], Tensor]
    score: Callable[[Tensor], Tensor]


class Guide(NamedTuple):
    """What a search follows: the function that it differentiates or, if it is blind, asks.

    Detectors whose guides compare equal are attacked once.

    Attributes:
        f: scores (B,) for aims on the score, latents, logits or scores of classes (B, D) for those on them.
        surrogate: name of the stand-in, None where `f` is the detector's own.
        exact: the order (or the value, for latents) is the detector's own.
        judge: the detector, where `f` is another function than its score: `f` then says where to go, and the judge
            alone which point is best.
        one_pass: both, where they come of one pass; else the judge costs one of its own.
    """

    f: Callable[[Tensor], Tensor]
    surrogate: str | None
    exact: bool
    judge: Detector | None = None
    one_pass: OnePass | None = None


class Group(NamedTuple):
    """Detectors that share one search.

    Attributes:
        guide: of the search.
        threat: limits and how to search.
        names: of the detectors.
    """

    guide: Guide
    threat: ThreatModel
    names: list[str]


class Unfit(Exception):
    """A threat model that a detector cannot be asked about; the message says why."""


def guide_of(
    detector: Detector,
    threat: ThreatModel,
    *,
    stand_in: Surrogate | None,
    followed: Latent | None = None,
) -> Guide:
    """The guide of a search within `threat` on `detector`.

    Args:
        detector: the one under attack.
        threat: says what to follow or match.
        stand_in: what is differentiated in place of its score; None for nothing else, and for blind attacks.
        followed: for the objectives "latent" and "class-logits", see `followed_latent` and `sound_class_scores`.

    Raises:
        Unfit: a latent or logits are to be followed that the detector does not have.
    """
    if threat.objective in ("logits", "class-logits", "misclassify"):
        return on_logits(detector, threat, followed)
    if threat.objective == "latent":
        if followed is None:
            raise Unfit("neither detector nor network gives a latent with a gradient")
        return _judged(Guide(followed, None, exact=False, judge=detector), followed, _itself)
    if threat.match in (None, "score"):
        if stand_in is None:
            return Guide(detector, None, exact=True)
        return Guide(stand_in.score, stand_in.name, exact=stand_in.exact)
    own: Latent | None = getattr(detector, "latent", None)
    if threat.match == "logits" and not getattr(detector, "of_logits", False):
        raise Unfit(
            "the detector gives no logits to match" if own is None else "its score is not a function of the logits"
        )
    if own is None:
        raise Unfit("the detector gives no `latent` to match")
    if stand_in is not None and stand_in.latent is not None:
        return Guide(stand_in.latent, stand_in.name, exact=False)
    return Guide(own, None, exact=True)


def on_logits(detector: Detector, threat: ThreatModel, classes: Latent | None) -> Guide:
    """The logits of the network behind the detector, or a score of them; class by class, the detector's own if any."""
    by_class = threat.objective == "class-logits"
    logits = getattr(getattr(detector, "net", None), "logits", None)
    if by_class and classes is not None:
        logits = classes
    if logits is None:
        own = ", nor `class_scores`" if by_class else ""
        raise Unfit(f"the detector has no `net` whose logits to follow{own}")
    if threat.objective == "misclassify":
        return Guide(logits, None, exact=True)
    if by_class:
        return _judged(Guide(logits, None, exact=False, judge=detector), logits, _itself)
    own_surrogate: Surrogate | None = getattr(detector, "surrogate", None)
    if own_surrogate is not None and isinstance(own_surrogate.score, LogOdds):
        guide = Guide(FreeEnergy(logits), "energy of the network's logits", exact=False, judge=detector)
        return _judged(guide, logits, energy)
    guide = Guide(LogOdds(logits, 1.0), "log-odds of the network's logits", exact=False, judge=detector)
    return _judged(guide, logits, log_odds)


def _judged(guide: Guide, latent: Latent, followed: Callable[[Tensor], Tensor]) -> Guide:
    """The guide, with `one_pass` where what it follows is a function of the logits, and so is the score."""
    judge = guide.judge
    if not (isinstance(judge, OnLogits) and judge.is_unaltered and latent == judge.net.logits):
        return guide
    return guide._replace(one_pass=OnePass(latent, followed, judge.from_logits))


def _itself(logits: Tensor) -> Tensor:
    return logits


def followed_latent(detector: Detector, stand_in: Surrogate | None, x: Tensor) -> Latent | None:
    """What to bring onto another image's: the surrogate's latent, the detector's own or the network's features.

    The first of them that has a gradient at `x`, shape (1, C, H, W); None where none has.
    """
    candidates = (
        getattr(stand_in, "latent", None),
        getattr(detector, "latent", None),
        getattr(getattr(detector, "net", None), "features", None),
    )
    return next((f for f in candidates if f is not None and reaches(f, x)), None)


def measured(detector: Detector, threat: ThreatModel) -> Callable[[Tensor], Tensor]:
    """The detector's own latent or score, on which MAPE is measured."""
    return detector if threat.match == "score" else detector.latent  # type: ignore[attr-defined]


def latents(guide: Guide, detector: Detector, threat: ThreatModel) -> tuple[Latent, ...]:
    """The latents that a search follows, and the one on which MAPE is measured; none where it is about scores."""
    if threat.match in ("latent", "logits"):
        return guide.f, measured(detector, threat)
    return (guide.f,) if threat.objective == "latent" else ()


def is_blind(threat: ThreatModel) -> bool:
    """Whether the search uses no gradient."""
    attack: Attack | Whole = find_attack(threat)
    return not attack.white_box


def blinded(threat: ThreatModel) -> ThreatModel:
    """The same limits and budget searched without gradients, for what has none.

    That is Square, SPSA on a patch, and for the aim "cross" RayS or HopSkipJump.

    Raises:
        Unfit: there is no such search within these limits.
    """
    if is_blind(threat):
        return threat
    if threat.limit is not None or (threat.aim == "cross" and threat.norm == "l1"):
        raise Unfit(f"{threat.attack} needs a gradient, and the score has none, or zero everywhere")
    attack = "spsa" if threat.norm == "patch" else "square"
    if threat.aim == "cross":
        attack = "rays" if threat.norm == "linf" else "hop-skip-jump"
    return threat.model_copy(update={"attack": attack, "step_size": None})


def describe(threat: ThreatModel) -> str:
    """The search in words."""
    step = "" if threat.step_size is None else f", step {threat.step_size:g} eps"
    draws = "" if threat.draws is None else f", {threat.draws} draws a value"
    on = "" if threat.objective in (None, "score") else f" on {threat.objective}"
    remark = ""
    if threat.attack.startswith(OUTSIDE):
        from oodattack.attacks.torchattacks_adapter import remark as said

        what = said(threat.attack.removeprefix(OUTSIDE))
        remark = f" ({what})" if what else ""
    return (
        f"{threat.attack}{on}{step}{draws}, {threat.queries} queries, {threat.restarts} restart"
        f"{'s' if threat.restarts > 1 else ''}, {threat.iterate} iterate{remark}"
    )
