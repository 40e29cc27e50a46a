"""Gradients of a quantity at the outputs of norm layers: what GAIA and S&I are made of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oodattack.classifier import Classifier, Pass

Quantity = Callable[[Pass], Tensor]  # what a forward pass left -> (B,), summed before the backward pass
Term = tuple[Tensor, Tensor | None]  # what one z of a path adds to the sum, and the step to the next z


def top_logit(seen: Pass) -> Tensor:
    """max_k f_k(x), shape (B,)."""
    return seen.logits.amax(dim=1)


def log_softmax_sum(seen: Pass) -> Tensor:
    """sum_k log softmax_k(f(x)), shape (B,)."""
    return seen.logits.log_softmax(dim=1).sum(dim=1)


def predicted_loss(label: Tensor) -> Quantity:
    """Cross-entropy to fixed labels (B,), shape (B,)."""
    return lambda seen: nn.functional.cross_entropy(seen.logits, label, reduction="none")


def gradients(of: Tensor, at: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """d(sum of `of`) / d(each of `at`), keeping the graph for the next call; zeros where `of` does not depend on it."""
    found = torch.autograd.grad(of.sum(), list(at), retain_graph=True, create_graph=create_graph, allow_unused=True)
    return tuple(torch.zeros_like(h) if g is None else g for g, h in zip(found, at, strict=True))


class SignPath(NamedTuple):
    """z_1, ..., z_T of Splitting & Integrating, and what is added up along them; see `path_sums`.

    Attributes:
        steps: T >= 1. With T = 1 and nothing else this is the plain gradient of GAIA.
        step_size: eta, in the units of the layer's output.
        delta_weighted: add (z_{i+1} - z_i) * g_i, eq. (10), instead of g_i.
        per_step: of what would be added, add 1/T where it is not exactly zero, eq. (11).
    """

    steps: int = 1
    step_size: float = 0.0
    delta_weighted: bool = False
    per_step: bool = False

    def terms(self, i: int, seen: Pass, at: Sequence[Tensor], quantity: Quantity | None, loss: Quantity) -> list[Term]:
        """What z_i adds and the step that follows it, or None if nothing needs that, for every tensor of `at`."""
        onward = i < self.steps or self.delta_weighted
        up = gradients(loss(seen), at) if onward or quantity is None else ()
        g = up if quantity is None else gradients(quantity(seen), at)
        steps = [self.step_size * u.sign() for u in up] if onward else [None] * len(at)
        return [(self._added(*pair).detach(), pair[1]) for pair in zip(g, steps, strict=True)]

    def _added(self, g: Tensor, step: Tensor | None) -> Tensor:
        found = step * g if step is not None and self.delta_weighted else g
        return (found != 0).to(g.dtype) / self.steps if self.per_step else found


def path_sums(
    clean: Pass,
    at: Sequence[Tensor],
    again: Sequence[Callable[[Tensor], Pass]],
    quantity: Quantity | None,
    path: SignPath,
) -> list[Tensor]:
    """Sum over i = 1..T of the gradient g_i of `quantity` at z_i, for every tensor of a pass on its own.

    z_1 is the tensor itself and z_{i+1} = z_i + step_size * sign(d CE(f(z_i), c) / d z_i), eq. (9), with c the class
    predicted for x: Splitting & Integrating, Alg. 1.

    Args:
        clean: a pass with a graph.
        at: tensors of it.
        again: for each of them, a pass with another one in its place.
        quantity: differentiated at every z_i; None for the cross-entropy itself.
        path: T, step_size, and what is added up in place of the gradients.

    Returns:
        One detached tensor each, in the shape of `at`.
    """
    loss = predicted_loss(clean.logits.argmax(dim=1).detach())
    sums = []
    with torch.enable_grad():
        for j, (total, step) in enumerate(path.terms(1, clean, at, quantity, loss)):
            z = at[j]
            for i in range(2, path.steps + 1):
                assert step is not None  # only the last one may be missing
                z = (z + step).detach().requires_grad_()
                ((more, step),) = path.terms(i, again[j](z), [z], quantity, loss)
                total = total + more
            sums.append(total)
    return sums


def sign_steps(
    net: Classifier, x: Tensor, layers: Sequence[str], quantity: Quantity | None, path: SignPath
) -> tuple[Pass, list[Tensor]]:
    """`path_sums` of the outputs of layers, with everything that does not pass through a layer held as it is for x.

    Args:
        net: classifier in eval mode.
        x: shape (B, C, H, W), values in [0, 1].
        layers: names of modules.
        quantity: differentiated at every z_i; None for the cross-entropy itself.
        path: T, step_size, and what is added up in place of the gradients.

    Returns:
        The clean pass, and one detached tensor a layer in the shape of its output.
    """
    x = x.detach()

    def split(name: str) -> Callable[[Tensor], Pass]:
        return lambda z: net.run(x, replace={name: z})

    with torch.enable_grad():
        clean = net.run(x.detach().requires_grad_(), watch=layers)
    return clean, path_sums(clean, [clean.outputs[n] for n in layers], [split(n) for n in layers], quantity, path)


def norms(net: Classifier, layers: Sequence[str]) -> list[nn.Module]:
    """The norms that put out what these layers do: of `NAME.drop` (see `Classifier.norm_layers`) the module NAME."""
    return [net.network.get_submodule(name.removesuffix(".drop")) for name in layers]


def per_channel(g: Tensor, module: nn.Module) -> Tensor:
    """Bring a norm layer's output or gradient to (B, channels, positions)."""
    return (g.movedim(-1, 1) if channels_last(g, module) else g).flatten(2) if g.ndim > 2 else g[:, :, None]


def channels_last(g: Tensor, module: nn.Module) -> bool:
    """Whether a norm layer's output has its channels in the last dimension, as `nn.LayerNorm` over one dimension has.

    Subclasses (a `LayerNorm2d` that permutes inside) are told by the size of dimension 1.
    """
    if not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) > 1:
        return False
    return type(module) is nn.LayerNorm or g.shape[1] != module.normalized_shape[0]


def check_layers(net: Classifier, layers: Sequence[str] | None, default: Callable[[], list[str]]) -> list[str]:
    """The given layer names, or the default ones.

    Raises:
        ValueError: an empty list, or a name that is no module of the network.
    """
    chosen = default() if layers is None else list(layers)
    known = dict(net.network.named_modules())
    if not chosen or any(name not in known for name in chosen):
        raise ValueError(f"`layers` must name modules of the network, got {chosen}. See `named_modules()`.")
    return chosen
