"""ReAct: Sun, Guo & Li, "ReAct: Out-of-distribution Detection With Rectified Activations", NeurIPS 2021,
arXiv:2111.12797."""  # noqa: D205, D209

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from oodattack.detector import Classifier, Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images, batches
from oodattack.detectors.energy import energy
from oodattack.detectors.straight_through import with_gradient_of

SLOPE = 0.01  # derivative that surrogates give to what a score cuts off; larger ones drown what it leaves


class ReAct(nn.Module):
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
        super().__init__()
        head_of(net)
        self.net, self.clip = net, clip
        words = f"score with slope {SLOPE:g} above the clip"
        self.surrogate = Surrogate(words, self.soft, self.soft_latent, exact=True)
        self.training = net.training

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


def head_of(net: Classifier) -> nn.Linear:
    """The head, as the linear map from features to logits that it must be.

    Raises:
        ValueError: it is something else.
    """
    head = net.network.get_submodule(net.head)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"`net` must have an `nn.Linear` head, got {type(head).__name__}. Name it with `head=...`.")
    return head


def head_logits(net: Classifier, h: Tensor) -> Tensor:
    """W h + b of the head, shape (B, K), for features h of shape (B, D)."""
    head = head_of(net)
    return linear(h, head.weight, head.bias)


def features_of(net: Classifier, rows: Tensor, *, check: bool) -> Tensor:
    """Penultimate features of images to fit on, shape (b, D). No gradient.

    Args:
        net: classifier with a linear head.
        rows: images, shape (b, C, H, W).
        check: whether to make sure that the head makes the logits out of them.

    Raises:
        ValueError: a head whose output is not the logits.
    """
    with torch.no_grad():
        seen = net.run(rows)
        if check and not torch.allclose(head_logits(net, seen.features), seen.logits, rtol=1e-3, atol=1e-4):
            raise ValueError(f"the output of head {net.head!r} must be the logits, got others. Name another head.")
    return seen.features


def batches_of_features(net: Classifier, x: Images, batch_size: int) -> Iterator[Tensor]:
    """Penultimate features of images to fit on, batch by batch: shapes (b, D). No gradient.

    Raises:
        ValueError: no images, or a head whose output is not the logits.
    """
    for i, (rows, _) in enumerate(batches(x, net=net, batch_size=batch_size)):
        yield features_of(net, rows, check=not i)


def percentile(values: Tensor, q: float) -> float:
    """The value below which q per cent of all entries are, interpolated; of any number of entries."""
    import numpy as np

    return float(np.percentile(values.detach().double().cpu().numpy(), q))


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
