"""A classifier that detectors can look into."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack.classifier import layers
from oodattack.classifier.copies import Copies
from oodattack.classifier.hooks import removing
from oodattack.classifier.normalisation import normalisation, normalised


class Pass(NamedTuple):
    """What one forward pass left behind."""

    logits: Tensor  # (B, K)
    features: Tensor  # input of the head, flattened to (B, D)
    outputs: dict[str, Tensor]  # outputs of the watched modules, as their successors saw them


class Classifier(nn.Module):
    """A network that takes images in [0, 1], with access to logits, penultimate features and named layers.

    A look inside needs hooks, which compiled code does not see: what `torch.compile` made is run as it was written.

    Args:
        network: maps normalised images (B, C, H, W) to logits (B, K), or to an object with them as `.logits`, as those
            of transformers do. Its mode (train or eval) is left as it is.
        mean: subtracted per channel, in [0, 1] units; None for no normalisation.
        std: divides per channel, > 0; None for no normalisation.
        head: name of the module whose input is the penultimate features. Default: the last `nn.Linear`.

    Raises:
        ValueError: no such head, a TorchScript network without one by name, or mean/std that are not one number a
            channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__()
        shift, scale = normalisation(mean, std)
        network = getattr(network, "_orig_mod", network)
        self.network = network
        self.compiled = any(m._compiled_call_impl or hasattr(m, "_orig_mod") for m in network.modules())
        self.head = layers.last_linear(network) if head is None else head
        if self.head not in dict(network.named_modules()):
            layers.check_plain(network)
            raise ValueError(
                f"`head` must be the name of a module of the network, got {head!r}. See `named_modules()`."
            )
        tensors = chain(network.parameters(), network.buffers())
        device = next((t.device for t in tensors if not t.is_meta), None)  # where the network already is
        self.register_buffer("mean", shift.to(device), persistent=False)
        self.register_buffer("std", scale.to(device), persistent=False)
        self._copies = Copies()
        self.training = network.training  # not `train()`: submodules may differ, as frozen norms do

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, K), of images in [0, 1].

        Raises:
            ValueError: images with other channels than `mean`, or in another precision than the network can take; or a
                network that returns something else.
        """
        try:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                found = self.network(self.normalised(x))
        except RuntimeError as error:
            own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), x.dtype)
            if own == x.dtype or "type" not in str(error):
                raise
            raise ValueError(
                f"images must have the precision of the network, {own}, got {x.dtype}. Convert one of them."
            ) from error
        logits = found if isinstance(found, Tensor) else getattr(found, "logits", found)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the network must return logits of shape (B, K), got {got}. Wrap it in a module that does."
            )
        return logits

    def normalised(self, x: Tensor) -> Tensor:
        """What the network is given for images in [0, 1], shape of `x`.

        Raises:
            ValueError: images with other channels than `mean`.
        """
        return normalised(x, self.mean, self.std)

    def logits(self, x: Tensor) -> Tensor:
        """Logits, shape (B, K); inside `searching`, those of a faster copy, equal up to rounding.

        In the precision of the images: where layers compute in bfloat16, what a score makes of the logits must not be
        rounded too, least of all at a temperature of 1000.
        """
        return self._copies.fastest(self, x)(x).to(x.dtype)  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: the head's input, flattened to (B, D); inside `searching` as `logits`."""
        return self._copies.fastest(self, x).run(x).features.to(x.dtype)

    def run(
        self,
        x: Tensor,
        watch: Iterable[str] = (),
        replace: Mapping[str, Tensor] | None = None,
        head_input: Tensor | None = None,
    ) -> Pass:
        """One forward pass that keeps, or replaces, what chosen modules put out.

        Replacing the output of module j by z splits the network there: logits become a function of z, with everything
        that does not pass through j (a skip connection) held at its value for `x`.

        Args:
            x: shape (B, C, H, W), values in [0, 1].
            watch: names of modules whose outputs to keep.
            replace: module name -> tensor to put in place of its output.
            head_input: features, shape (B, D), to put in place of the head's input.

        Raises:
            ValueError: an unknown module name, or a module that one pass calls more than once or not at all, that is
                TorchScript, or that puts out something else than a tensor.
        """
        watch, replace = list(watch), dict(replace or {})
        modules = self._hookable([*watch, *replace])
        outputs: dict[str, Tensor] = {}
        features: list[Tensor] = []

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def hook(_module: nn.Module, _args: Any, output: Any) -> Tensor:
                if name in outputs:
                    raise ValueError(f"layer {name!r} must be called once in a forward pass. Name another layer.")
                if not isinstance(output, Tensor):
                    kind = type(output).__name__
                    raise ValueError(f"layer {name!r} must put out a tensor, got {kind}. Name another layer.")
                outputs[name] = replace.get(name, output)
                return outputs[name].clone()  # a following in-place ReLU must not change what we keep

            return hook

        def keep_features(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            features.append(args[0].flatten(1) if head_input is None else head_input)
            return (features[-1].view_as(args[0]), *args[1:])

        with ExitStack() as hooks:
            for name in {*watch, *replace}:
                hooks.enter_context(removing(modules[name].register_forward_hook(keep(name))))
            hooks.enter_context(removing(modules[self.head].register_forward_pre_hook(keep_features)))
            logits = self(x)
        if missing := [name for name in (*watch, *replace) if name not in outputs]:
            raise ValueError(
                f"layer {missing[0]!r} must be called in a forward pass, but it was not. Name another layer."
            )
        if len(features) != 1:
            raise ValueError(
                f"`head` must be called once in a forward pass, got {len(features)} calls. "
                "Name another with `head=...`."
            )
        return Pass(logits, features[0].flatten(1), outputs)

    def _hookable(self, names: Sequence[str]) -> dict[str, nn.Module]:
        """All modules by name; ValueError where one of those named is unknown or, as the head may be, TorchScript."""
        modules = dict(self.network.named_modules())
        if unknown := [name for name in names if name not in modules]:
            raise ValueError(f"layers must name modules of the network, got {unknown[0]!r}. See `named_modules()`.")
        for name in (self.head, *names):
            if isinstance(modules[name], torch.jit.ScriptModule):
                layers.check_plain(modules[name])
        return modules

    def norm_layers(self) -> list[str]:
        """Names of all normalisation layers, in module order, see `layers.norm_layers`; ValueError without any."""
        return layers.norm_layers(self.network)

    def late_norm_layers(self) -> list[str]:
        """Norm layers of the last two stages (ResNet: layer3 and layer4); without stages, the second half of them."""
        return layers.late_norm_layers(self.network)

    def stages(self) -> list[str]:
        """Names of the modules after which the resolution changes, see `layers.stages`; ValueError without any."""
        return layers.stages(self.network)


def inner(network: nn.Module) -> nn.Module:
    """The network that weights belong to, without the normalisation of a `Classifier` around it."""
    return network.network if isinstance(network, Classifier) else network


def channel_mean(h: Tensor) -> Tensor:
    """Mean over positions: (B, C, ...) -> (B, C)."""
    return h.flatten(2).mean(2) if h.ndim > 2 else h
