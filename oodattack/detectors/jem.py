"""Scores of a joint energy model: Grathwohl et al., "Your Classifier Is Secretly an Energy Based Model and You Should
Treat It Like One", ICLR 2020, arXiv:1912.03263. Attacked by Liang et al. 2020, arXiv:2009.08016, appendix J."""

from contextlib import nullcontext

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.energy import Energy
from oodattack.detectors.msp import MSP
from oodattack.detectors.net import OnNetwork
from oodattack.detectors.smooth_relu import SmoothRelu
from oodattack.detectors.straight_through import with_gradient_of

BETA = 50.0  # steepness of the smoothed ReLU; of 20, 50, 100 and 200 the one that moved the score furthest


class JemPx(Energy):
    """-log p(x) up to a constant, -log sum_k exp f_k(x): the free energy of the logits at T = 1.

    That is `Energy`; how the network was trained makes the difference.

    Args:
        net: classifier.

    Differs from the paper: higher means more OOD. Differs from the authors' code: no noise is added to the image.
    """

    name = "jem-px"

    def __init__(self, net: Classifier) -> None:
        super().__init__(net)


class JemPy(MSP):
    """1 - max_y p(y|x). That is `MSP`, attacked through the same surrogate.

    Args:
        net: classifier.

    Differs from the paper: higher means more OOD. Differs from the authors' code: no noise is added to the image.
    """

    name = "jem-py"


def gradient_norm(net: Classifier, x: Tensor, *, beta: float | None = None) -> Tensor:
    """||d log p(x) / dx||_2 with log p(x) = log sum_k exp f_k(x) + const.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1]. The gradient is per unit of these.
        beta: steepness of a smoothed derivative of ReLUs, see `SmoothRelu`; None for their own.

    Returns:
        Shape (B,), >= 0.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad(), nullcontext() if beta is None else SmoothRelu(beta):
        x = x if x.requires_grad else x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net.logits(x).logsumexp(dim=1).sum(), x, create_graph=graph)
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm


class JemGradient(OnNetwork):
    """||d log p(x) / dx||_2: "approximate mass", small where the density is flat; see `gradient_norm`.

    On a ReLU network only the curvature of logsumexp has a derivative, which vanishes where one class is certain, and
    the way to other activations is not seen. The surrogate has the same values and the gradient of the logarithm of the
    norm with smoothed ReLUs; it costs a second backward pass more.

    The latent is the logits, of which this score is no function: attacks that match it do what Liang et al. 2020 did.

    Args:
        net: classifier.

    Differs from the paper: higher means more OOD. Differs from the authors' code: in units of [0, 1] instead of
    [-1, 1], a factor of 2; no noise is added to the image.
    """

    name = "jem-gradient"

    def __init__(self, net: Classifier) -> None:
        super().__init__(net, "logits")
        self.latent = net.logits
        self.surrogate = Surrogate(f"log of the norm with smoothed ReLUs, beta = {BETA:g}", self.soft, exact=True)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0."""
        return gradient_norm(self.net, x)

    def soft(self, x: Tensor) -> Tensor:
        """The scores, shape (B,), with the gradient of the logarithm of the smoothed norm."""
        with torch.no_grad():
            score = gradient_norm(self.net, x)
        smooth = gradient_norm(self.net, x, beta=BETA)
        steep = (smooth + torch.finfo(x.dtype).tiny).log()
        return with_gradient_of(score, steep)
