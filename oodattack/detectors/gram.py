"""Gram matrices: Sastry & Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML 2020,
arXiv:1912.12510."""  # noqa: D205, D209

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from oodattack.detector import Classifier, Surrogate, removing

POWERS = (1, 2, 3, 4, 5)
TINY = 1e-40  # added to |s| under the root while attacking, Liang et al. 2020, appendix H.2
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


def gram_layers(net: Classifier, x: Tensor) -> list[str]:
    """Names of the convolutions, activations and stages that one pass calls once, equal outputs named once.

    Differs from the authors' code: they record a fixed set of tensors of two architectures.
    """
    kinds, calls = (nn.modules.conv._ConvNd,), list[tuple[str, Tensor]]()

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append((name, output))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in net.network.named_modules():
            activation = type(module).__module__ == "torch.nn.modules.activation"
            if activation or isinstance(module, kinds) or name in net._stage_names():
                hooks.enter_context(removing(module.register_forward_hook(note(name))))
        net(x)
    count, kept = Counter(name for name, _ in calls), dict[str, Tensor]()
    for name, output in calls:
        if count[name] == 1 and not any(output is other for other in kept.values()):
            kept[name] = output
    return list(kept)


def check_powers(powers: Sequence[int]) -> None:
    """Raise ValueError unless there are powers, all whole numbers >= 1."""
    if not powers or any(p < 1 or int(p) != p for p in powers):
        raise ValueError(f"`powers` must be whole numbers >= 1, got {list(powers)}.")
