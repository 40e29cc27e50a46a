"""Maximum softmax probability: Hendrycks & Gimpel, "A Baseline for Detecting ... Examples", arXiv:1610.02136."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

from oodattack.classifier import Classifier
from oodattack.detector import Latent, Surrogate
from oodattack.detectors.net import OnLogits


def log_odds(logits: Tensor) -> Tensor:
    """log((1 - p) / p) of p = max_k softmax_k: logsumexp of the other logits minus the largest one.

    An increasing function of 1 - p that never saturates: its gradient is of order 1 where that of p is 0 in float32.

    Args:
        logits: shape (B, K), K >= 2.

    Returns:
        Shape (B,), unbounded; higher means less confident.

    Raises:
        ValueError: fewer than two classes.
    """
    check_classes(logits)
    top = one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    return logits.masked_fill(top, -float("inf")).logsumexp(dim=1) - logits.amax(dim=1)


def check_classes(logits: Tensor) -> None:
    """Raise ValueError unless there are two classes or more: of one, every softmax is 1."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"the network must give logits of 2 classes or more, got {tuple(logits.shape)}. Take another.")


def msp(logits: Tensor) -> Tensor:
    """1 - max_k softmax_k(f(x)), section 2.

    Computed as sigmoid(log_odds), which equals it and keeps apart confident inputs that 1 - p rounds to the same 0
    (in float32 up to a lead of 88 instead of 17).

    Args:
        logits: shape (B, K), K >= 2.

    Returns:
        OOD scores, shape (B,), in [0, 1 - 1/K].

    Differs from the paper: the paper's score is the maximum itself (ID high); here higher means more OOD.
    """
    return log_odds(logits).sigmoid()


@dataclass(frozen=True)
class LogOdds:
    """Log-odds of the largest softmax of `latent(x) / temperature`: what attacks on MSP and ODIN differentiate."""

    latent: Latent
    temperature: float

    def __call__(self, x: Tensor) -> Tensor:
        """Log-odds, shape (B,)."""
        return log_odds(self.latent(x) / self.temperature)


def log_odds_surrogate(latent: Latent, *, temperature: float = 1.0) -> Surrogate:
    """The surrogate of 1 - max_k softmax_k(latent(x) / temperature); equal for equal latents, which share a search."""
    return Surrogate("log-odds of the largest softmax", LogOdds(latent, temperature), exact=True)


class MSP(OnLogits):
    """Scores inputs by one minus the largest softmax probability, in [0, 1]."""

    name = "msp"

    def __init__(self, net: Classifier) -> None:
        super().__init__(net)
        self.surrogate = log_odds_surrogate(net.logits)

    def from_logits(self, logits: Tensor) -> Tensor:
        """See `msp`."""
        return msp(logits)
