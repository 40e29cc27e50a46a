"""Gradients of a quantity at the outputs of norm layers: what GAIA and S&I are made of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from oodattack.detector import Classifier, Pass

Quantity = Callable[[Pass], Tensor]  # what a forward pass left -> (B,), summed before the backward pass


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


def sign_steps(
    net: Classifier, x: Tensor, layers: Sequence[str], quantity: Quantity, *, steps: int, step_size: float
) -> tuple[Pass, list[Tensor]]:
    """Sum over i = 1..T of the gradient of `quantity` at z_i, for every layer on its own.

    z_1 is the layer's clean output and z_{i+1} = z_i + step_size * sign(d CE(f(z_i), c) / d z_i) with c the class
    predicted for x: Splitting & Integrating, Alg. 1. With T = 1 this is the plain gradient of GAIA.

    Args:
        net: classifier in eval mode.
        x: shape (B, C, H, W), values in [0, 1].
        layers: names of modules.
        quantity: differentiated at every z_i.
        steps: T >= 1.
        step_size: eta, > 0, in the units of the layer's output.

    Returns:
        The clean pass, and one detached tensor a layer in the shape of its output.
    """
    x = x.detach()
    with torch.enable_grad():
        clean = net.run(x.requires_grad_(), watch=layers)
        label = clean.logits.argmax(dim=1).detach()
        outputs = [clean.outputs[name] for name in layers]
        sums = [g.detach() for g in gradients(quantity(clean), outputs)]
        if steps > 1:
            ascent = gradients(predicted_loss(label)(clean), outputs)
            for j, name in enumerate(layers):
                z = outputs[j].detach() + step_size * ascent[j].sign()
                sums[j] = sums[j] + _later_steps(net, x.detach(), name, z, quantity, label, steps, step_size)
    return clean, sums


def _later_steps(
    net: Classifier, x: Tensor, name: str, z: Tensor, quantity: Quantity, label: Tensor, steps: int, step_size: float
) -> Tensor:
    """Sum over i = 2..T of the gradient of `quantity` at z_i of one layer, starting from z = z_2."""
    total = torch.zeros_like(z)
    for i in range(2, steps + 1):
        z = z.detach().requires_grad_()
        seen = net.run(x, replace={name: z})
        total = total + gradients(quantity(seen), [z])[0].detach()
        if i < steps:
            z = z + step_size * gradients(predicted_loss(label)(seen), [z])[0].sign()
    return total


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
