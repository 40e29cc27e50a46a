"""Likelihood against complexity: Serra et al., "Input Complexity and Out-of-distribution Detection with
Likelihood-based Generative Models", ICLR 2020, arXiv:1909.11480. Attacked by Liang et al. 2020, arXiv:2009.08016,
appendix I."""

import torch
from torch import Tensor, nn

from oodattack.detector import Surrogate
from oodattack.detectors.glow_flow import Glow, bits_per_dim
from oodattack.detectors.png_length import png_bits
from oodattack.detectors.straight_through import with_gradient_of


class GlowPNG(nn.Module):
    """S(x) = NLL(x) - L(x): likelihood of a flow and length of the PNG file, both in bits per dimension.

    L counts the 8-bit file, whatever n_bits of the flow. It has no gradient: the surrogate has the values of S and the
    gradient of the smooth NLL alone. With the gradient of `residual_bits` for L, attacks reached less in 20 of 32
    cases, and more only where both terms are of one size (near OOD images, small steps).

    Args:
        flow: a trained one, see `fit_glow`.

    Differs from the authors' code: the flow is quantised to 5 bits by default, as that of the attack's authors.
    """

    name = "glow-png"

    def __init__(self, flow: Glow) -> None:
        super().__init__()
        self.flow = flow
        words = "score with the gradient of the likelihood before quantisation"
        self.surrogate = Surrogate(words, self.soft, self.soft_latent, exact=True)
        self.training = flow.training

    def latent(self, x: Tensor) -> Tensor:
        """The score as a latent, shape (B, 1): the f(x) of appendix I."""
        return self(x)[:, None]  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), bits per dimension."""
        return bits_per_dim(self.flow, x) - png_bits(x)

    def soft(self, x: Tensor) -> Tensor:
        """The scores, shape (B,), with the gradient of the likelihood before quantisation."""
        with torch.no_grad():
            score = self(x)
        smooth = bits_per_dim(self.flow, x, smooth=True)
        return with_gradient_of(score, smooth)

    def soft_latent(self, x: Tensor) -> Tensor:
        """`soft` as a latent, shape (B, 1)."""
        return self.soft(x)[:, None]
