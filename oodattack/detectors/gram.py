"""Gram matrices: Sastry & Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML 2020,
arXiv:1912.12510."""  # noqa: D205, D209

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodattack.detector import Classifier, Surrogate
from oodattack.detectors.gram_bands import SHARP, Bands, check_powers, deviation, extremes, gram_sums, soft_deviation
from oodattack.detectors.gram_layers import gram_layers

POWERS = (1, 2, 3, 4, 5)
TINY = 1e-40  # added to |s| under the root while attacking, Liang et al. 2020, appendix H.2


class Gram(nn.Module):
    """Total deviation of Gram sums from the range that ID images of the predicted class have, over the confidence.

    score = sum_l d_l / scale_l / max softmax, with d_l the sum over powers and channels of (low - s) / |low| below the
    band, (s - high) / |high| above it and 0 inside. All in float64. See `fit_gram`.

    Args:
        net: classifier.
        layers: names of modules, each called once in a pass.
        bands: one per layer.
        powers: p of the Gram matrices, each >= 1; those the bands were made with.

    Differs from the paper: follows the authors' code in that sums over the rows of the Gram matrices stand for their
    entries, and 1e-6 is added in the denominators.
    """

    name = "gram"

    def __init__(
        self, net: Classifier, layers: Sequence[str], bands: Sequence[Bands], *, powers: Sequence[int] = POWERS
    ) -> None:
        super().__init__()
        if len(layers) != len(bands):
            raise ValueError(f"`bands` must be one per layer, got {len(bands)} for {len(layers)} layers.")
        check_powers(powers)
        self.net, self.layers, self.powers = net, tuple(layers), tuple(powers)
        self.scales = [band.scale for band in bands]
        for i, band in enumerate(bands):
            self.register_buffer(f"low{i}", band.low)
            self.register_buffer(f"high{i}", band.high)
        self.surrogate = Surrogate(f"bands with soft edges, {SHARP:g} of their width", self.soft, self.soft_latent)
        self.training = net.training

    def _latent(self, x: Tensor, *, soft: bool) -> Tensor:
        seen = self.net.run(x, watch=self.layers)
        label, confidence = seen.logits.detach().argmax(dim=1), seen.logits.double().softmax(dim=1).amax(dim=1)
        found = []
        for i, name in enumerate(self.layers):
            sums = gram_sums(seen.outputs[name], self.powers, tiny=TINY if soft else 0.0)
            low, high = self.get_buffer(f"low{i}")[label], self.get_buffer(f"high{i}")[label]
            sharp = SHARP * min(self.scales[i], 1.0)
            outside = soft_deviation(sums, low, high, sharp=sharp) if soft else deviation(sums, low, high)
            found.append(outside / self.scales[i] / confidence)
        return torch.stack(found, dim=1).to(x.dtype)

    def latent(self, x: Tensor) -> Tensor:
        """What each layer adds to the score: shape (B, layers), >= 0. No gradient."""
        with torch.no_grad():
            return self._latent(x, soft=False)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0, exactly 0 inside all bands. No gradient: use the surrogate."""
        return self.latent(x).sum(dim=1)

    def soft_latent(self, x: Tensor) -> Tensor:
        """What each layer adds to the soft score: shape (B, layers), > 0; differentiable, inside the bands too."""
        return self._latent(x, soft=True)

    def soft(self, x: Tensor) -> Tensor:
        """Soft scores, shape (B,), > 0."""
        return self.soft_latent(x).sum(dim=1)


def fit_gram(
    net: Classifier,
    x: Tensor,
    *,
    layers: Sequence[str] | None = None,
    powers: Sequence[int] = POWERS,
    held_out: float = 0.1,
    batch_size: int = 256,
) -> Gram:
    """Fit on ID images x (N, C, H, W) in [0, 1], batch by batch; classes are the predicted ones.

    A class that is never predicted gets the band of all classes together.

    Args:
        net: classifier.
        x: training images.
        layers: names of modules. Default: see `gram_layers`.
        powers: p of the Gram matrices, each >= 1.
        held_out: share in (0, 0.5] of the images that scale the layers' deviations, evenly spaced; the others make
            the bands.
        batch_size: images per forward pass.

    Raises:
        ValueError: powers below 1, too few images, or an unknown layer.

    Differs from the paper: deviations are scaled by held-out training images, as in OpenOOD, not by test images.
    """
    check_powers(powers)
    if not 0 < held_out <= 0.5:
        raise ValueError(f"`held_out` must be in (0, 0.5], got {held_out}.")
    held = torch.arange(len(x)) % round(1 / held_out) == 1
    if not held.any():
        raise ValueError(f"`x` must have at least 2 images, got {len(x)}.")
    layers = gram_layers(net, x[:1]) if layers is None else list(layers)
    low, high = extremes(net, x[~held].split(batch_size), layers, powers)
    plain = Gram(net, layers, [Bands(*edges, 1.0) for edges in zip(low, high, strict=True)], powers=powers)
    with torch.no_grad():  # the paper's expectation is of d_l, before the division by the confidence
        parts = [plain.latent(r).double() * confidence(net, r)[:, None] for r in x[held].split(batch_size)]
    scales = torch.cat(parts).mean(dim=0) + 1e-7
    return Gram(net, layers, [Bands(*b) for b in zip(low, high, scales.tolist(), strict=True)], powers=powers)


def confidence(net: Classifier, x: Tensor) -> Tensor:
    """max_k softmax_k(f(x)), shape (B,), float64."""
    found: Tensor = net(x).double().softmax(dim=1).amax(dim=1)
    return found
