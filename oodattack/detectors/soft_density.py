"""Differentiable stand-in for the share of non-zero gradients at norm layers (GAIA-Z, S&I-Z)."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.classifier.hooks import removing
from oodattack.detectors.layer_gradients import norms, per_channel
from oodattack.detectors.norm_tape import Tape


@dataclass(frozen=True)
class SoftDensity:
    """mean over channels of the squared soft share of open activations behind each norm layer.

    In a ReLU network the gradient at a norm layer's output is non-zero exactly where the next ReLU is open, up to
    coincidence and to later pooling. The share of open ReLUs, mean of 1[z > 0], becomes mean of sigmoid(beta * z) on
    the input z of the first ReLU that the layer's output reaches: for the last norm of a residual block, the sum with
    the skip. ReLU6, Hardtanh and Hardsigmoid are open between two edges, Hardswish above -3. GELU, SiLU, ELU, Tanh and
    other smooth activations are shut only where rounding makes their derivative zero, so that a score is 1 on all
    inputs that do not saturate them; those edges are used where the network has no others, with a slope that reaches 0.

    Attributes:
        net: classifier with norm layers followed by activations.
        layers: names of the norm layers.
        beta: steepness in the units of z, > 0: a compromise between fidelity and a gradient that reaches far.

    A layer that no such activation follows, or whose output also goes into a convolution, is left out: fully open, it
    would shift all scores alike. How well the order of the scores is kept is measured, not assumed: see the report's
    `surrogate_rank_correlation`.
    """

    net: Classifier
    layers: tuple[str, ...]
    beta: float = 20.0

    def latent(self, x: Tensor) -> Tensor:
        """Soft densities, shape (B, channels of the layers used), in (0, 1).

        Raises:
            ValueError: no layer is followed by an activation with a flat part: the score is 1 on every input.
        """
        modules, tape = dict(self.net.network.named_modules()), Tape()
        with ExitStack() as hooks:
            for name in self.layers:
                hooks.enter_context(removing(modules[name].register_forward_hook(tape.start(name))))
            with tape:
                self.net(x)
        behind = {n: tape.found[n] for n in self.layers if n in tape.found and n not in tape.mixed}
        if not behind:
            raise ValueError(
                "the network must have ReLUs behind its norm layers for this surrogate, got none. Behind a LeakyReLU, "
                "PReLU or convolution no gradient is zero and the score is 1 on every input: use gaia-a or si-a."
            )
        if any(open_.hard for _, open_ in behind.values()):
            behind = {n: part for n, part in behind.items() if part[1].hard}
        soft = {id(z): open_.soft(z, self.beta) for z, open_ in behind.values()}  # two norms may share a ReLU
        pairs = zip(behind.values(), norms(self.net, list(behind)), strict=True)
        return torch.cat([per_channel(soft[id(z)], norm).mean(2) for (z, _), norm in pairs], dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        """Soft scores, shape (B,), in (0, 1)."""
        return self.latent(x).square().mean(dim=1)


@dataclass(frozen=True)
class SoftLatent:
    """`SoftDensity.latent` as a value: equal for equal densities, which bound methods of two objects are not."""

    density: SoftDensity

    def __call__(self, x: Tensor) -> Tensor:
        """Soft densities, shape (B, channels of the layers used), in (0, 1)."""
        return self.density.latent(x)
