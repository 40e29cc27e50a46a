"""Differentiable stand-in for the share of non-zero gradients at norm layers (GAIA-Z, S&I-Z)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from oodattack.detector import Classifier
from oodattack.detectors.layer_gradients import per_channel
from oodattack.detectors.smooth_relu import HINGES, Hinges, input_of

# Each output of these depends on many inputs: a gradient that comes through them is non-zero at all of them.
MIXING = {
    *(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3)), "linear", "bilinear", "matmul",
    "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot", "scaled_dot_product_attention",
    "multi_head_attention_forward", "layer_norm", "group_norm",
}  # fmt: skip
SMOOTH = {
    functional.gelu, functional.silu, functional.mish, functional.elu, functional.elu_, functional.selu, torch.selu,
    torch.selu_, functional.celu, torch.celu, torch.celu_, functional.softplus, functional.logsigmoid, torch.tanh,
    torch.tanh_, Tensor.tanh, Tensor.tanh_, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_,
}  # fmt: skip
REACH = 10.0  # a smooth activation's edge at e gets the steepness REACH / |e|: sigmoid(10) still has a slope in float32


class Window(NamedTuple):
    """Where an activation's derivative is not exactly zero: low < z < high. `hard`: by definition, not by rounding."""

    low: float
    high: float
    hard: bool

    def soft(self, z: Tensor, beta: float) -> Tensor:
        """sigmoid(b (z - low)) * sigmoid(b (high - z)), in (0, 1); b = beta, or less for an edge due to rounding."""
        edges = [(self.low, z - self.low), (self.high, self.high - z)]
        near = [(beta if self.hard else min(beta, REACH / abs(e))) * inside for e, inside in edges if abs(e) < inf]
        return torch.stack(near).sigmoid().prod(dim=0)


def window(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Window | None:
    """The window of a call, None for anything else than an activation with a flat part (LeakyReLU has none)."""
    if func in HINGES:
        return hinge_window(HINGES[func](args, kwargs))
    if func not in SMOOTH:
        return None
    z, others = (
        input_of(args, kwargs),
        tuple(sorted((k, v) for k, v in kwargs.items() if k not in ("input", "inplace"))),
    )
    low, high = rounding_edges(func, args[1:], others, z.dtype, z.device.type)
    return Window(low, high, False) if min(abs(low), abs(high)) < inf else None


def hinge_window(hinges: Hinges) -> Window | None:
    """From the first knot, if the function is flat before it, to the last one, if it is flat behind it."""
    if isinstance(hinges.slope, Tensor):
        return None
    after = hinges.slope + sum(gain for _, gain in hinges.knots)
    low = hinges.knots[0][0] if hinges.slope == 0 else -inf
    high = hinges.knots[-1][0] if after == 0 and not hinges.gate else inf
    return Window(low, high, True) if low > -inf or high < inf else None


@cache
def rounding_edges(
    func: Any, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...], dtype: torch.dtype, device: str
) -> tuple[float, float]:
    """Between which z the derivative that autograd computes is not rounded to zero, to 1/16; infinite beyond 1024.

    In float32: Tanh -9..9, Sigmoid -89..17, GELU from -6, SiLU from -89, ELU from -104; in float64 Tanh -19..19.
    """
    with torch.enable_grad():
        z = torch.linspace(-1024, 1024, 2**15 + 1, dtype=dtype, device=device).requires_grad_()
        (slope,) = torch.autograd.grad(func(z * 1, *args, **dict(kwargs)).sum(), z)
    alive = z.detach()[slope != 0]
    low, high = alive.min().item(), alive.max().item()
    return (-inf if low <= -1024 else low), (inf if high >= 1024 else high)


class Tape(TorchFunctionMode):
    """Follows the outputs of norm layers to the first activation with a flat part, modules and functions alike.

    Attributes:
        found: name of a layer -> input of that activation and its window.
        mixed: names of layers whose output also reaches a convolution or the like without passing one: there the
            gradient is non-zero everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[Tensor, Window]] = {}
        self.mixed: set[str] = set()
        self.behind: Any = WeakIdKeyDictionary()  # tensor -> names of the layers it is computed from

    def start(self, name: str) -> Callable[[Any, Any, Tensor], None]:
        """A forward hook that follows the output of layer `name`."""
        return lambda _module, _args, output: self.behind.__setitem__(output, {name})

    def __torch_function__(  # noqa: D105, RUF100
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        names = {name for z in tensors((*args, *kwargs.values())) for name in self.behind.get(z, ())}
        if not names:
            return func(*args, **kwargs)
        if seen := window(func, args, kwargs):
            before = input_of(args, kwargs).clone()  # it may work in place
            self.found |= {name: (before, seen) for name in names - self.found.keys()}
        if getattr(func, "__name__", "") in MIXING:
            self.mixed |= names
            seen = seen or Window(-inf, inf, True)
        out = func(*args, **kwargs)
        for z in tensors(out if isinstance(out, (tuple, list)) else [out]):
            self.behind[z] = set() if seen else names
        return out


def tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values and in lists of them."""
    inner = [v for value in values for v in (value if isinstance(value, (tuple, list)) else [value])]
    return [v for v in inner if isinstance(v, Tensor)]


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
        handles = [modules[name].register_forward_hook(tape.start(name)) for name in self.layers]
        try:
            with tape:
                self.net(x)
        finally:
            for handle in handles:
                handle.remove()
        behind = {n: tape.found[n] for n in self.layers if n in tape.found and n not in tape.mixed}
        if not behind:
            raise ValueError(
                "the network must have ReLUs behind its norm layers for this surrogate, got none. Behind a LeakyReLU, "
                "PReLU or convolution no gradient is zero and the score is 1 on every input: use gaia-a or si-a."
            )
        if any(open_.hard for _, open_ in behind.values()):
            behind = {n: part for n, part in behind.items() if part[1].hard}
        soft = {id(z): open_.soft(z, self.beta) for z, open_ in behind.values()}  # two norms may share a ReLU
        return torch.cat([per_channel(soft[id(z)], modules[n]).mean(2) for n, (z, _) in behind.items()], dim=1)

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
