"""Differentiable stand-in for the share of non-zero gradients at norm layers (GAIA-Z, S&I-Z)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from oodattack.detector import Classifier
from oodattack.detectors.layer_gradients import per_channel
from oodattack.detectors.smooth_relu import RELU


class ReluTape(TorchFunctionMode):
    """Records, in order, the inputs of all ReLUs called inside it, modules and functions alike."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(  # noqa: D105, RUF100
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in RELU:  # nested calls do not come back here, so each ReLU is noted once
            before = args[0] if args else (kwargs or {})["input"]
            self.note(before.clone())  # it may work in place
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class SoftDensity:
    """mean over channels of the squared soft share of open ReLUs behind each norm layer.

    In a ReLU network the gradient at a norm layer's output is non-zero exactly where the next ReLU is open, up to
    coincidence and to later pooling. The share of open ReLUs, mean of 1[z > 0], becomes mean of sigmoid(beta * z) on
    the input z of the first ReLU called after the layer: for the last norm of a residual block, the sum with the skip.

    Attributes:
        net: classifier with norm layers followed by ReLUs.
        layers: names of the norm layers.
        beta: steepness in the units of z, > 0: a compromise between fidelity and a gradient that reaches far.

    A layer that no ReLU follows is left out: fully open, it would shift all scores alike. How well the order of
    the scores is kept is measured, not assumed: see the report's `surrogate_rank_correlation`.
    """

    net: Classifier
    layers: tuple[str, ...]
    beta: float = 20.0

    def latent(self, x: Tensor) -> Tensor:
        """Soft densities, shape (B, channels of all layers), in (0, 1)."""
        behind: dict[str, Tensor] = {}
        open_names: list[str] = []
        modules = dict(self.net.network.named_modules())

        def note(z: Tensor) -> None:
            for name in open_names:
                behind[name] = z
            open_names.clear()

        def arrived(name: str) -> Callable[..., None]:
            return lambda _module, _args, _output: open_names.append(name)

        handles = [modules[name].register_forward_hook(arrived(name)) for name in self.layers]
        try:
            with ReluTape(note):
                self.net(x)
        finally:
            for handle in handles:
                handle.remove()
        soft = {id(z): (self.beta * z).sigmoid() for z in behind.values()}  # two norms may share a ReLU
        found = [per_channel(soft[id(behind[n])], modules[n]).mean(2) for n in self.layers if n in behind]
        if not found:
            raise ValueError("the network must have ReLUs behind its norm layers for this surrogate, got none.")
        return torch.cat(found, dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        """Soft scores, shape (B,), in (0, 1)."""
        return self.latent(x).square().mean(dim=1)


@dataclass(frozen=True)
class SoftLatent:
    """`SoftDensity.latent` as a value: equal for equal densities, which bound methods of two objects are not."""

    density: SoftDensity

    def __call__(self, x: Tensor) -> Tensor:
        """Soft densities, shape (B, channels of all layers), in (0, 1)."""
        return self.density.latent(x)
