"""Intervals through a network, differentiable in its weights: what IBP training descends.

Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models",
arXiv:1810.12715, section 3. For training only: in the network's precision, without outward rounding. What certifies is
`oodattack.bounds`.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional


class Interval(NamedTuple):
    """All h with |h - centre| <= radius, entry by entry."""

    centre: Tensor
    radius: Tensor


class IntervalPass(fx.Interpreter):
    """A network on intervals, as it is at test time: norms take their running statistics, dropout does nothing.

    Args:
        network: images (B, C, H, W), normalised or not, to logits (B, K).

    Raises:
        ValueError: `torch.fx` cannot trace it, or it has a layer that intervals do not go through, or does not end in
            a linear layer.
    """

    def __init__(self, network: nn.Module) -> None:
        try:
            traced = fx.symbolic_trace(network)
        except Exception as error:  # whatever tracing somebody's network raises
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"`network` must let `torch.fx` trace it for intervals, got {why!r}. Take another."
            ) from error
        super().__init__(traced)
        (result,) = [node.args[0] for node in traced.graph.nodes if node.op == "output"]
        named = isinstance(result, fx.Node) and result.op == "call_module"
        head = traced.get_submodule(str(result.target)) if named else None
        if not isinstance(head, nn.Linear):
            raise ValueError("`network` must end in a linear layer for intervals, got none. Take another network.")
        self.head, self.last = head, result
        for node in traced.graph.nodes:
            if node.op.startswith("call"):
                self._rule(node)

    def differences(self, low: Tensor, high: Tensor) -> Tensor:
        """Upper bounds u_kl of f_k - f_l over low <= x <= high, shape (B, K, K), 0 where k = l.

        The last layer is taken together with the difference (elision, section 3 of Gowal et al.): tighter than the
        difference of two bounds.
        """
        found: Interval = self.run(Interval((low + high) / 2, (high - low) / 2))
        weight = self.head.weight[:, None] - self.head.weight[None]  # (K, K, D)
        above = torch.einsum("bd,kld->bkl", found.centre, weight)
        above = above + torch.einsum("bd,kld->bkl", found.radius, weight.abs())
        if self.head.bias is None:
            return above
        return above + (self.head.bias[:, None] - self.head.bias[None])

    def run_node(self, n: fx.Node) -> Any:
        """One step; the last layer is left to `differences`."""
        if n is self.last:
            return self.env[n.all_input_nodes[0]]
        if not n.op.startswith("call"):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self._rule(n)(*args, **kwargs)

    def _rule(self, n: fx.Node) -> Callable[..., Interval]:
        """What intervals do at one step."""
        name, rule = getattr(n.target, "__name__", n.target), FUNCTIONS.get(n.target)
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            kind = next((kind for kind in MODULES if isinstance(module, kind)), None)
            name = type(module).__name__ if kind is None else repr(module)
            rule = None if kind is None or _odd(module) else partial(MODULES[kind], module)
        if rule is None:
            raise ValueError(
                f"`network` must be made of layers that intervals go through, got {name}. Take another network."
            )
        return rule


def _odd(module: nn.Module) -> bool:
    """Whether a layer has an option that its rule does not know."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode != "zeros"
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is None


def _linear(module: nn.Linear, h: Interval) -> Interval:
    return Interval(module(h.centre), functional.linear(h.radius, module.weight.abs()))


def _convolution(module: nn.Conv2d, h: Interval) -> Interval:
    named: dict[str, Any] = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}
    return Interval(module(h.centre), functional.conv2d(h.radius, module.weight.abs(), None, **named))


def _norm(module: nn.BatchNorm2d, h: Interval) -> Interval:
    assert module.running_mean is not None and module.running_var is not None
    scale = (module.running_var + module.eps).rsqrt() * (1 if module.weight is None else module.weight)
    shift = -module.running_mean * scale + (0 if module.bias is None else module.bias)
    view = (1, -1, 1, 1)
    return Interval(h.centre * scale.view(view) + shift.view(view), h.radius * scale.abs().view(view))


def _relu(h: Interval, *_args: Any, **_named: Any) -> Interval:
    low, high = (h.centre - h.radius).relu(), (h.centre + h.radius).relu()
    return Interval((low + high) / 2, (high - low) / 2)


def _same(h: Interval, *_args: Any, **_named: Any) -> Interval:
    return h


def _averaging(f: Callable[..., Tensor]) -> Callable[..., Interval]:
    """A step with weights that are not negative and sum: it takes centres and radii alike."""
    return lambda h, *args, **named: Interval(f(h.centre, *args, **named), f(h.radius, *args, **named))


def _sum(a: Any, b: Any, *, alpha: float = 1.0) -> Interval:
    """a + alpha b, of intervals or of what is always the same."""
    one, other = (h if isinstance(h, Interval) else Interval(h, h * 0) for h in (a, b))
    return Interval(one.centre + alpha * other.centre, one.radius + abs(alpha) * other.radius)


MODULES: dict[type[nn.Module], Callable[..., Interval]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _norm,
    nn.ReLU: lambda _module, h: _relu(h),
    nn.AvgPool2d: lambda module, h: _averaging(module)(h),
    nn.AdaptiveAvgPool2d: lambda module, h: _averaging(module)(h),
    nn.Flatten: lambda module, h: _averaging(module)(h),
    nn.Identity: lambda _module, h: h,
    nn.Dropout: lambda _module, h: h,
    nn.Dropout2d: lambda _module, h: h,
}
FUNCTIONS: dict[Any, Callable[..., Interval]] = {
    functional.relu: _relu,
    torch.relu: _relu,
    "relu": _relu,
    functional.dropout: _same,
    functional.avg_pool2d: _averaging(functional.avg_pool2d),
    functional.adaptive_avg_pool2d: _averaging(functional.adaptive_avg_pool2d),
    torch.flatten: _averaging(torch.flatten),
    "flatten": _averaging(torch.flatten),
    operator.add: _sum,
    operator.iadd: _sum,
    torch.add: _sum,
}
