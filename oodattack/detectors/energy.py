"""Energy score: Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, arXiv:2010.03759."""

from dataclasses import dataclass

from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Latent
from oodattack.detectors.net import OnLogits


def energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Free energy of the logits, eq. (4): E(x) = -T log sum_k exp(f_k(x) / T).

    Args:
        logits: shape (B, K), unbounded.
        temperature: T > 0.

    Returns:
        OOD scores, shape (B,), unbounded.
    """
    return -temperature * (logits / temperature).logsumexp(dim=1)


@dataclass(frozen=True)
class FreeEnergy:
    """Free energy of `latent(x)`; equal for equal latents, which share a search."""

    latent: Latent

    def __call__(self, x: Tensor) -> Tensor:
        """Free energy, shape (B,)."""
        return energy(self.latent(x))


class Energy(OnLogits):
    """Scores inputs by the free energy of a classifier's logits."""

    name = "energy"

    def __init__(self, net: Classifier, *, temperature: float = 1.0) -> None:
        super().__init__(net)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {temperature}. The paper takes 1.")
        self.temperature = temperature

    def from_logits(self, logits: Tensor) -> Tensor:
        """See `energy`."""
        return energy(logits, temperature=self.temperature)
