"""Gram matrices: Sastry & Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML 2020,
arXiv:1912.12510."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images, batches
from oodattack.detectors.gram_bands import (
    SHARP,
    Bands,
    check_powers,
    deviation,
    extremes,
    gram_sums,
    kept_and_held,
    pixel_sums,
    soft_deviation,
)
from oodattack.detectors.gram_layers import gram_layers
from oodattack.detectors.net import OnNetwork, check_net

POWERS = (1, 2, 3, 4, 5)
TINY = 1e-40  # added to |s| under the root while attacking, Liang et al. 2020, appendix H.2


class Gram(OnNetwork):
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
        super().__init__(net, "run")
        if len(layers) != len(bands):
            raise ValueError(
                f"`bands` must be one per layer, got {len(bands)} for {len(layers)} layers. `fit_gram` makes them."
            )
        check_powers(powers)
        self.layers, self.powers = tuple(layers), tuple(powers)
        self.scales = [band.scale for band in bands]
        for i, band in enumerate(bands):
            self.register_buffer(f"low{i}", band.low)
            self.register_buffer(f"high{i}", band.high)
        self.surrogate = Surrogate(f"bands with soft edges, {SHARP:g} of their width", self.soft, self.soft_latent)

    @property
    def bands(self) -> tuple[Bands, ...]:
        """What was fitted, one a layer."""
        edges = [(self.get_buffer(f"low{i}"), self.get_buffer(f"high{i}")) for i in range(len(self.scales))]
        return tuple(Bands(low, high, scale) for (low, high), scale in zip(edges, self.scales, strict=True))

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
    x: Images,
    *,
    layers: Sequence[str] | None = None,
    powers: Sequence[int] = POWERS,
    held_out: float = 0.1,
    batch_size: int = BATCH_SIZE,
) -> Gram:
    """Fit on ID images in [0, 1], going through them twice, batch by batch; classes are the predicted ones.

    A class that is never predicted gets the band of all classes together.

    Args:
        net: classifier.
        x: training images, shape (N, C, H, W), or what yields batches of them, the same ones in the same order every
            time; see `batches`.
        layers: names of modules. Default: see `gram_layers`.
        powers: p of the Gram matrices, each >= 1.
        held_out: share in (0, 0.5] of the images that scale the layers' deviations, evenly spaced; the others make
            the bands.
        batch_size: images per forward pass.

    Raises:
        ValueError: powers below 1, too few images, an unknown layer, or images that come in another order the second
            time, so that the scales would be those of images of the bands.

    Differs from the paper: deviations are scaled by held-out training images, as in OpenOOD, not by test images.
    """
    check_net(net, "run")
    check_powers(powers)
    if not 0 < held_out <= 0.5:
        raise ValueError(f"`held_out` must be in (0, 0.5], got {held_out}. Leave it out for a tenth.")
    if layers is None:
        layers = gram_layers(net, next(batches(x, net=net, batch_size=batch_size))[0][:1])
    halves = partial(kept_and_held, net, x, every=round(1 / held_out), batch_size=batch_size)
    marks: list[Tensor] = []

    def kept() -> Iterator[Tensor]:
        for rows, held in halves():
            marks.append(pixel_sums(held))
            if len(rows):
                yield rows

    low, high = extremes(net, kept(), layers, powers)
    plain = Gram(net, layers, [Bands(*edges, 1.0) for edges in zip(low, high, strict=True)], powers=powers)
    scales = mean_deviations(plain, (held for _, held in halves()), marks) + 1e-7
    return Gram(net, layers, [Bands(*b) for b in zip(low, high, scales.tolist(), strict=True)], powers=powers)


def mean_deviations(plain: Gram, held_out: Iterable[Tensor], marks: Sequence[Tensor]) -> Tensor:
    """Mean over held-out images of every layer's deviation d_l, before the division by the confidence: shape (layers,).

    Args:
        plain: detector with scales of 1.
        held_out: batches of images.
        marks: their `pixel_sums` when the bands were made.

    Raises:
        ValueError: no images, or others than those of `marks`.
    """
    found = []
    for i, rows in enumerate(held_out):
        if i >= len(marks) or marks[i].shape != rows.shape[:1] or not torch.allclose(marks[i], pixel_sums(rows)):
            raise ValueError("`x` must yield the same images in the same order every time. Turn off shuffling.")
        if len(rows):
            with torch.no_grad():
                found.append(plain.latent(rows).double() * confidence(plain.net, rows)[:, None])
    if not found:
        raise ValueError("`x` must have at least 2 images, got 1. Add images.")
    return torch.cat(found).mean(dim=0)


def confidence(net: Classifier, x: Tensor) -> Tensor:
    """max_k softmax_k(f(x)), shape (B,), float64."""
    found: Tensor = net(x).double().softmax(dim=1).amax(dim=1)
    return found
