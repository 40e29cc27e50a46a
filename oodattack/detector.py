"""What the rest of the package means by a detector, and a classifier that detectors can look into."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from oodattack.folding import agree, fold

Score = Callable[[Tensor], Tensor]  # (B, C, H, W) in [0, 1] -> (B,), higher means more OOD
Latent = Callable[[Tensor], Tensor]  # (B, C, H, W) in [0, 1] -> (B, D)

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
STAGE = re.compile(r"(layer|stage|block|denseblock)_?\d+")
NUMBERED = re.compile(r"(\w+\.)?((stages|blocks)\.|s)\d+")  # timm's


class Detector(Protocol):
    """Maps inputs to out-of-distribution scores. Higher means more OOD, always.

    Any callable will do: a function, an `nn.Module`, a detector from another library. Fitting happens before: a `fit_*`
    function returns a Detector, so an unfitted one does not exist. Two attributes are looked for and may be missing:

    - `latent`, shape (B, D): the z = f(x) of Liang et al. 2020 from which the score is computed;
    - `surrogate`, a `Surrogate`: what an attacker differentiates in place of a score without a useful gradient.
    """

    def __call__(self, x: Tensor, /) -> Tensor:
        """Score inputs.

        Args:
            x: shape (B, C, H, W), values in [0, 1]. Preprocessing such as mean/std belongs inside the detector.

        Returns:
            Scores, shape (B,), unbounded, finite.
        """
        ...


class Surrogate(NamedTuple):
    """A differentiable stand-in for a detector, used to search and never to report.

    Two detectors whose surrogates compare equal are attacked once.

    Attributes:
        name: what it is, in words, for the report.
        score: differentiable, orders inputs like the detector's score.
        latent: differentiable stand-in for `latent`, or None where the detector's own will do.
        exact: True when `score` is an increasing function of the detector's score, so nothing is lost by its use.
    """

    name: str
    score: Score
    latent: Latent | None = None
    exact: bool = False


_searching: ContextVar[object] = ContextVar("searching", default=None)


@contextmanager
def searching(search: object) -> Iterator[None]:
    """Within, `Classifier.logits` and `.features` may take a faster copy of the network. Never while scoring.

    Args:
        search: names one search; the copy is compared with the network once for each.
    """
    token = _searching.set(search)
    try:
        yield
    finally:
        _searching.reset(token)


class Pass(NamedTuple):
    """What one forward pass left behind."""

    logits: Tensor  # (B, K)
    features: Tensor  # input of the head, flattened to (B, D)
    outputs: dict[str, Tensor]  # outputs of the watched modules, as their successors saw them


class Classifier(nn.Module):
    """A network that takes images in [0, 1], with access to logits, penultimate features and named layers.

    A look inside needs hooks, which compiled code does not see: what `torch.compile` made is run as it was written.

    Args:
        network: maps normalised images (B, C, H, W) to logits (B, K). Its mode (train or eval) is left as it is.
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
        self.head = last_linear(network) if head is None else head
        if self.head not in dict(network.named_modules()):
            check_plain(network)
            raise ValueError(
                f"`head` must be the name of a module of the network, got {head!r}. See `named_modules()`."
            )
        self.register_buffer("mean", shift, persistent=False)
        self.register_buffer("std", scale, persistent=False)
        self.training = network.training  # not `train()`: submodules may differ, as frozen norms do

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, K), of images in [0, 1].

        Raises:
            ValueError: images with other channels than `mean`, or in another precision than the network can take; or a
                network that returns something else.
        """
        try:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                logits = self.network(self.normalised(x))
        except RuntimeError as error:
            own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), x.dtype)
            if own == x.dtype or "type" not in str(error):
                raise
            raise ValueError(
                f"images must have the precision of the network, {own}, got {x.dtype}. Convert one of them."
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the network must return logits of shape (B, K), got {found}. Wrap it in a module that does."
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
        return self._twin(x)(x).to(x.dtype)  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: the head's input, flattened to (B, D); inside `searching` as `logits`."""
        return self._twin(x).run(x).features.to(x.dtype)

    def _twin(self, x: Tensor) -> "Classifier":
        """The folded copy, inside `searching` and if it gives the same logits; else the classifier itself."""
        search = _searching.get()
        if search is None:
            return self
        kept: tuple[object, Classifier] = self.__dict__.get("_folded", (None, self))  # kept out of the state dict
        if kept[0] is not search:
            twin = kept[1] if kept[1] is not self and self._same(kept[1], x) else self._fold(x)
            kept = self.__dict__["_folded"] = (search, twin)
        return kept[1]

    def _fold(self, x: Tensor) -> "Classifier":
        network = fold(self.network)
        if network is None:
            return self
        try:
            twin = Classifier(network, head=self.head)
        except ValueError:  # the head did not survive
            return self
        twin.mean, twin.std = self.mean, self.std
        return twin if self._same(twin, x) else self

    def _same(self, twin: "Classifier", x: Tensor) -> bool:
        """Whether a copy has the logits and features of the network on the first rows of `x`."""
        with torch.no_grad():
            mine = self.run(x[:4].detach())
            try:
                its = twin.run(x[:4].detach())
            except Exception:  # a copy that fails is no copy
                return False
        return agree(its.logits, mine.logits) and agree(its.features, mine.features)

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
        modules = dict(self.network.named_modules())
        watch, replace = list(watch), dict(replace or {})
        if unknown := [name for name in (*watch, *replace) if name not in modules]:
            raise ValueError(f"layers must name modules of the network, got {unknown[0]!r}. See `named_modules()`.")
        for name in (self.head, *watch, *replace):
            if isinstance(modules[name], torch.jit.ScriptModule):
                check_plain(modules[name])
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

    def norm_layers(self) -> list[str]:
        """Names of all normalisation layers, in module order.

        Of a norm with an activation in it (timm's `BatchNormAct2d`, `GroupNormAct`, ...) the child in front of that,
        `NAME.drop`, which puts out what the norm alone does.

        Raises:
            ValueError: there is none.
        """
        norms = [(name, module) for name, module in self.network.named_modules() if isinstance(module, NORM_LAYERS)]
        names = [f"{n}.drop" if hasattr(norm, "drop") and hasattr(norm, "act") else n for n, norm in norms]
        if not names:
            check_plain(self.network)
            raise ValueError(
                "the network must have normalisation layers for this detector, got none. Take another detector."
            )
        return names

    def late_norm_layers(self) -> list[str]:
        """Norm layers of the last two stages (ResNet: layer3 and layer4); without stages, the second half of them."""
        names = self.norm_layers()
        last = tuple(f"{stage}." for stage in self.stage_names()[-2:])
        return [n for n in names if n.startswith(last)] if last else names[len(names) // 2 :]

    def stages(self) -> list[str]:
        """Names of the modules after which the resolution changes: stem, then layer1, layer2, ... or like-named ones.

        Where no module is named so, the outermost of stages.0, stages.1, ..., blocks.0, blocks.1, ... or s1, s2, ...
        that hold convolutions, as in timm's ConvNeXt, EfficientNet, BiT and RegNet; not those of a ViT, whose channels
        come last.

        Raises:
            ValueError: the network does not name its stages that way.
        """
        names = self.stage_names() or self._numbered_stages()
        if not names:
            check_plain(self.network)
            raise ValueError(
                "the network has no modules named like `layer1`. Give `layers` explicitly, or take another detector."
            )
        modules = dict(self.network.named_modules())
        stem = next((name for name in ("stem", "relu", "act1", "bn1", "conv1") if name in modules), None)
        return [*([stem] if stem else []), *names]

    def _numbered_stages(self) -> list[str]:
        modules = dict(self.network.named_modules())
        names = [name for name in modules if NUMBERED.fullmatch(name)]
        outermost = [n for n in names if n.count(".") == min(name.count(".") for name in names)]
        return [n for n in outermost if any(isinstance(m, nn.Conv2d) for m in modules[n].modules())]

    def stage_names(self) -> list[str]:
        """Names of the modules that are named like stages: layer1, layer2, ..., or block1, block2, ...; maybe none."""
        names = [n for n, _ in self.network.named_modules() if STAGE.fullmatch(n.split(".")[-1]) and n.count(".") <= 1]
        return [n for n in names if n.split(".")[0] not in names or "." not in n]  # a block inside a stage is none


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Mean and std of channels as tensors of shape (1, C, 1, 1); 0 and 1 for None.

    Raises:
        ValueError: one without the other, numbers of channels that differ, or a std that is not positive.
    """
    try:
        shift, scale = (None if part is None else torch.as_tensor(part, dtype=torch.float32) for part in (mean, std))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"`mean` and `std` must have one number a channel each, got {mean} and {std}. "
            "Give both as lists of one length, or neither."
        ) from None
    if shift is None and scale is None:
        shift, scale = torch.tensor([0.0]), torch.tensor([1.0])
    if shift is None or scale is None or shift.ndim != 1 or shift.shape != scale.shape or not len(shift):
        raise ValueError(
            f"`mean` and `std` must have one number a channel each, got {mean} and {std}. "
            "Give both as lists of one length, or neither."
        )
    if not (scale.isfinite().all() and scale.min() > 0):
        raise ValueError(f"`std` must be > 0, got {std}. Take that of the training images.")
    if not shift.isfinite().all():
        raise ValueError(f"`mean` must be finite, got {mean}. Take that of the training images.")
    return shift.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)


def normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std.

    Args:
        x: shape (B, C, H, W), values in [0, 1].
        mean: shape (1, C, 1, 1), or (1, 1, 1, 1) for any number of channels.
        std: shape of `mean`, > 0.

    Returns:
        Shape of `x`, unbounded.

    Raises:
        ValueError: images with other channels than `mean`.
    """
    if mean.shape[1] not in (1, x.shape[1]):  # would broadcast one channel to many
        raise ValueError(
            f"`x` must have {mean.shape[1]} channels as `mean` has, got {x.shape[1]}. "
            "Convert the images, or give other statistics."
        )
    return (x - mean) / std


def inner(network: nn.Module) -> nn.Module:
    """The network that weights belong to, without the normalisation of a `Classifier` around it."""
    return network.network if isinstance(network, Classifier) else network


@contextmanager
def removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    """Remove a hook on the way out, whatever happens."""
    try:
        yield
    finally:
        handle.remove()


def check_plain(network: nn.Module) -> None:
    """Raise ValueError if a network, or a part of it, is TorchScript, whose layers take no hooks."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise ValueError(
            "the network must be a plain nn.Module to look inside, got a TorchScript one. "
            "Give the module it was made of, or your score as a function."
        )


def last_linear(network: nn.Module) -> str:
    """Name of the last `nn.Linear` in module order, the usual classification head."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        check_plain(network)
        raise ValueError("the network must have an `nn.Linear` head, got none. Name the last layer with `head=...`.")
    return names[-1]


def channel_mean(h: Tensor) -> Tensor:
    """Mean over positions: (B, C, ...) -> (B, C)."""
    return h.flatten(2).mean(2) if h.ndim > 2 else h
