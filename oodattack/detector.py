"""What the rest of the package means by a detector, and what is asked of one before any work is done."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Score = Callable[[Tensor], Tensor]  # (B, C, H, W) in [0, 1] -> (B,), higher means more OOD
Latent = Callable[[Tensor], Tensor]  # (B, C, H, W) in [0, 1] -> (B, D)


class Detector(Protocol):
    """Maps inputs to out-of-distribution scores. Higher means more OOD, always.

    Any callable will do: a function, an `nn.Module`, a detector from another library. Fitting happens before: a `fit_*`
    function returns a Detector, so an unfitted one does not exist. Three attributes are looked for and may be missing:

    - `latent`, shape (B, D): the z = f(x) of Liang et al. 2020 from which the score is computed;
    - `surrogate`, a `Surrogate`: what an attacker differentiates in place of a score without a useful gradient;
    - `class_scores`, (B, C, H, W) -> (B, K): how well x fits each of K classes, of which one is enough to look ID. A
      search raises some of them one by one, as it raises a network's logits where there are none.
    """

    def __call__(self, x: Tensor, /) -> Tensor:
        """Score inputs.

        Args:
            x: shape (B, C, H, W), values in [0, 1]. Preprocessing such as mean/std belongs inside the detector.

        Returns:
            Scores, shape (B,), unbounded, finite.
        """
        ...


class Surrogate(NamedTuple):
    """A differentiable stand-in for a detector, used to search and never to report.

    Two detectors whose surrogates compare equal are attacked once.

    Attributes:
        name: what it is, in words, for the report.
        score: differentiable, orders inputs like the detector's score.
        latent: differentiable stand-in for `latent`, or None where the detector's own will do.
        exact: True when `score` is an increasing function of the detector's score, so nothing is lost by its use.
    """

    name: str
    score: Score
    latent: Latent | None = None
    exact: bool = False


def check_detector(detector: Detector, name: str) -> None:
    """Raise ValueError if it cannot be called, is a class, has no hash, or holds a module that is not ready."""
    if isinstance(detector, type):
        of = detector.__name__
        raise ValueError(f"detector {name!r} must be an object, got the class {of}. Make one of it: {of}(...).")
    if not callable(detector):
        remedy = "Write a function; for several, a dict of them by name."
        if callable(getattr(detector, "postprocess", None)):
            remedy = "Write oodattack.adapters.openood(it, network)."
        raise ValueError(
            f"detector {name!r} must be callable, images -> scores, got a {type(detector).__name__}. {remedy}"
        )
    try:
        hash(detector)
    except TypeError:
        raise ValueError(
            f"detector {name!r} must be hashable, got a {type(detector).__name__}, which is not. "
            "Write @dataclass(eq=False), or give it a __hash__."
        ) from None
    if not isinstance(detector, nn.Module):
        return
    if lazy := [path for path, parameter in detector.named_parameters() if is_lazy(parameter)]:
        raise ValueError(
            f"detector {name!r} must have all its weights, got {lazy[0]!r} without a shape, of a lazy module. "
            "Call it on a batch of images first."
        )
    if training := [path for path, module in detector.named_modules() if module.training]:
        inside = f" in {training[0]!r}" if training[0] else ""
        raise ValueError(f"detector {name!r} must be in eval mode, got training mode{inside}. Call .eval() first.")
