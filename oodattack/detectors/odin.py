"""ODIN: Liang, Li & Srikant, "Enhancing the Reliability of OOD Image Detection", ICLR 2018, arXiv:1706.02690."""

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Score, Surrogate
from oodattack.detectors.msp import LogOdds, msp
from oodattack.detectors.net import OnNetwork


def signed_step(score: Score, x: Tensor, magnitude: float) -> Tensor:
    """x - magnitude * sign(grad_x score(x)), eq. (2), with sign(0) = 1 as in the authors' code.

    The step is a constant to whoever differentiates the result: its true derivative is zero almost everywhere, so an
    attack that goes through it (BPDA, arXiv:1802.00420) sees the identity.

    Args:
        score: differentiable, (B, ...) -> (B,). Rows must not influence one another.
        x: shape (B, C, H, W).
        magnitude: length of the step in input units; 0 returns `x`.

    Returns:
        Shape of `x`; may leave [0, 1] by `magnitude`, as in the authors' code.
    """
    if magnitude == 0:
        return x
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return x - magnitude * torch.where(gradient >= 0, 1.0, -1.0).to(x.dtype)


class ODIN(OnNetwork):
    """One minus the largest softmax at temperature T of an input moved towards confidence, eq. (1) and (2).

    Args:
        net: classifier.
        temperature: T > 0.
        magnitude: epsilon of eq. (2), >= 0, in [0, 1] input units.

    Differs from the paper: higher means more OOD. Differs from the authors' code: they step in normalised units and
    divide by the data set's std; in [0, 1] units that is a step of `magnitude`, the same for every channel.
    """

    name = "odin"
    of_logits = True

    def __init__(self, net: Classifier, *, temperature: float = 1000.0, magnitude: float = 0.0014) -> None:
        super().__init__(net, "logits")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {temperature}. The paper takes 1000.")
        if not magnitude >= 0:
            raise ValueError(f"`magnitude` must be >= 0, got {magnitude}. Give 0 for no step.")
        self.temperature = temperature
        self.magnitude = magnitude
        self.surrogate = Surrogate(
            f"log-odds at temperature {temperature:g}, straight through the preprocessing",
            LogOdds(self.latent, temperature),
            exact=True,
        )

    def latent(self, x: Tensor) -> Tensor:
        """Logits of the preprocessed input, shape (B, K)."""

        # grad of cross-entropy to the predicted class at T = grad of -log max softmax
        def confidence_loss(z: Tensor) -> Tensor:
            return -(self.net.logits(z) / self.temperature).log_softmax(dim=1).amax(dim=1)

        return self.net.logits(signed_step(confidence_loss, x, self.magnitude))

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), in [0, 1]; in float64, as 1 - p of a thousand classes at T = 1000 differs late."""
        logits = self.latent(x)
        return msp((logits if logits.device.type == "mps" else logits.double()) / self.temperature)
