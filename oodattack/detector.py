"""What the rest of the package means by a detector."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

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
