"""ReAct: Sun, Guo & Li, "ReAct: Out-of-distribution Detection With Rectified Activations", NeurIPS 2021,
arXiv:2111.12797."""

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images
from oodattack.detectors.energy import energy
from oodattack.detectors.linear_head import batches_of_features, head_logits, head_of, percentile
from oodattack.detectors.net import OnNetwork, check_net
from oodattack.detectors.straight_through import with_gradient_of

SLOPE = 0.01  # derivative that surrogates give to what a score cuts off; larger ones drown what it leaves


class ReAct(OnNetwork):
    """Free energy of the logits of clipped features: E(W min(h, c) + b). See `fit_react`.

    Where a feature is above c the score has no gradient. The surrogate has the same values, and a derivative of
    `SLOPE` there instead of 0: an attack sees the way back below the clip, even with all features above it.

    Args:
        net: classifier whose logits are those of an `nn.Linear` head.
        clip: c, the largest value that a feature may keep.

    Differs from the paper: higher means more OOD. Of the scores that it combines with clipping, this is the energy.
    """

    name = "react"

    def __init__(self, net: Classifier, *, clip: float) -> None:
        super().__init__(net, "features")
        head_of(net)
        self.clip = clip
        words = f"score with slope {SLOPE:g} above the clip"
        self.surrogate = Surrogate(words, self.soft, self.soft_latent, exact=True)

    def latent(self, x: Tensor) -> Tensor:
        """Logits of the clipped features, shape (B, K)."""
        return head_logits(self.net, clipped(self.net.features(x), self.clip))

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return energy(self.latent(x))

    def soft_latent(self, x: Tensor) -> Tensor:
        """`latent` with a gradient above the clip, shape (B, K)."""
        return head_logits(self.net, clipped(self.net.features(x), self.clip, slope=SLOPE))

    def soft(self, x: Tensor) -> Tensor:
        """The scores, shape (B,), with a gradient above the clip."""
        return energy(self.soft_latent(x))


def clipped(h: Tensor, clip: float, *, slope: float = 0.0) -> Tensor:
    """min(h, clip), with derivative 1 below `clip` and `slope` above it; `slope` leaves the values alone."""
    cut = h.clamp(max=clip)
    return with_gradient_of(cut, slope * (h - cut)) if slope else cut


def fit_react(net: Classifier, x: Images, *, percentile_kept: float = 90.0, batch_size: int = BATCH_SIZE) -> ReAct:
    """Clip at a percentile of all features of ID images in [0, 1].

    The features of all images are kept until the percentile is taken, N * D numbers.

    Args:
        net: classifier.
        x: ID images, of the training set or held out as in OpenOOD: shape (N, C, H, W), or see `batches`.
        percentile_kept: p, in (0, 100]: the share of features, in per cent, that the clip leaves alone.
        batch_size: images per forward pass.

    Raises:
        ValueError: no images, a percentile out of range, or a clip that all features would be cut to.
    """
    check_net(net, "features")
    if not 0 < percentile_kept <= 100:
        raise ValueError(f"`percentile_kept` must be in (0, 100], got {percentile_kept}. The paper takes 90.")
    z = torch.cat(list(batches_of_features(net, x, batch_size)))
    clip = percentile(z, percentile_kept)
    if clip <= z.min():
        raise ValueError(
            f"`percentile_kept` must be above the share of the smallest features, got {percentile_kept}. All features "
            f"would be cut to {clip:g}: raise it."
        )
    return ReAct(net, clip=clip)
