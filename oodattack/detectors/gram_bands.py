"""Gram sums of a layer and the band that ID images leave between the smallest and the largest, arXiv:1912.12510."""

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from oodattack.classifier import Classifier
from oodattack.detectors.batches import Images
from oodattack.detectors.batches import batches as batches_of

SHARP = 0.03  # width of the soft edges of a band: at most this share of the band, of the edge and of the layer's scale


class Bands(NamedTuple):
    """What ID images of every predicted class look like at one layer.

    Attributes:
        low: smallest Gram sums, shape (K, P, C), float64.
        high: largest ones.
        scale: mean deviation of held-out ID images, > 0.
    """

    low: Tensor
    high: Tensor
    scale: float


def gram_sums(h: Tensor, powers: Sequence[int], *, tiny: float = 0.0) -> Tensor:
    """sign(s) (|s| + tiny)^(1/p) of the row sums s of the Gram matrices F^p (F^p)^T, F^p entry by entry.

    Args:
        h: a layer's output F, shape (B, C, ...).
        powers: p, each >= 1.
        tiny: keeps the root's derivative finite at 0.

    Returns:
        Shape (B, len(powers), C), float64. No C x C matrix is formed.
    """
    f = h.double().flatten(2) if h.ndim > 2 else h.double()[:, :, None]
    power, found = f, []
    for p in range(1, max(powers) + 1):
        power = power * f if p > 1 else f  # several times faster than f**p
        if p in powers:
            s = (power @ power.sum(dim=1)[:, :, None]).squeeze(2)
            found.append(s.sign() * (s.abs() + tiny) ** (1 / p))
    return torch.stack(found, dim=1)


def deviation(sums: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Relative distance to the band, summed over powers and channels: three tensors (B, P, C) -> (B,), >= 0."""
    below, above = (low - sums).clamp(min=0), (sums - high).clamp(min=0)
    return (below / (low + 1e-6).abs() + above / (high + 1e-6).abs()).sum(dim=(1, 2))


def soft_deviation(sums: Tensor, low: Tensor, high: Tensor, *, sharp: float) -> Tensor:
    """`deviation` with t softplus(u / t) in place of max(u, 0), so that it never ceases to fall.

    t = min(SHARP (high - low), sharp |edge|), sharp <= SHARP. Without |edge| the soft part of an edge near 0, where
    every activation after a ReLU has one, would be divided by next to nothing and drown all others.
    """

    def outside(over: Tensor, edge: Tensor) -> Tensor:
        unit = (edge + 1e-6).abs()
        t = (sharp * unit).minimum(SHARP * (high - low)) + 1e-12
        return (t * softplus(over / t) / unit).sum(dim=(1, 2))

    return outside(low - sums, low) + outside(sums - high, high)


def extremes(
    net: Classifier, batches: Iterable[Tensor], layers: Sequence[str], powers: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Smallest and largest Gram sums of every predicted class, one tensor (K, P, C) a layer."""
    low: list[Tensor] = []
    high: list[Tensor] = []
    for rows in batches:
        with torch.no_grad():
            seen = net.run(rows, watch=layers)
            sums = [gram_sums(seen.outputs[name], powers) for name in layers]
        label, classes = seen.logits.argmax(dim=1), seen.logits.shape[1]
        if not low:
            low = [s.new_full((classes, *s.shape[1:]), float("inf")) for s in sums]
            high = [-edge for edge in low]
        for i, s in enumerate(sums):
            rows_of = label[:, None, None].expand_as(s)
            low[i].scatter_reduce_(0, rows_of, s, "amin")
            high[i].scatter_reduce_(0, rows_of, s, "amax")
    low = [edge.where(edge.isfinite(), edge.amin(dim=0)) for edge in low]
    return low, [edge.where(edge.isfinite(), edge.amax(dim=0)) for edge in high]


def kept_and_held(net: Classifier, x: Images, *, every: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every batch in two: images that make the bands, and those held out: the 2nd, then one in `every`."""
    start = 0
    for rows, _ in batches_of(x, net=net, batch_size=batch_size):
        held = torch.arange(start, start + len(rows), device=rows.device) % every == 1
        start += len(rows)
        yield rows[~held], rows[held]


def pixel_sums(x: Tensor) -> Tensor:
    """Sum of all pixels of each image, shape (B,), float64: tells whether two images are the same."""
    return x.double().flatten(1).sum(dim=1)


def check_powers(powers: Sequence[int]) -> None:
    """Raise ValueError unless there are powers, all whole numbers >= 1."""
    if not powers or not all(1 <= p < inf and int(p) == p for p in powers):
        raise ValueError(f"`powers` must be whole numbers >= 1, got {list(powers)}. Leave them out for 1 to 5.")
