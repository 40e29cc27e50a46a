"""Within it, nothing cuts the graph of a tensor: what does is undone as it is called, and every value stays."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from oodattack.keep_graph.returned import Returned


class KeepGraph(TorchFunctionMode):
    """Within, nothing cuts the graph of a tensor that has one: see `UNDONE`. Not for use under `torch.compile`.

    Slopes that are infinite at 0, those of x^p with 0 < p < 1, are 0 there: an infinite one turns the gradient of all
    pixels into NaN.

    Args:
        rounding: whether gradients pass through what rounds, see `ROUNDS` and `CASTS`, as if it did not.
        returned: what gives images that left PyTorch and came back their gradient; None: they get none. What rounds is
            passed then too, but for casts to integers: as such, images leave.
    """

    def __init__(self, *, rounding: bool = False, returned: Returned | None = None) -> None:
        super().__init__()
        self.undone = UNDONE | (ROUNDS | CASTS if rounding else ROUNDS if returned is not None else {})
        self.returned = returned

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what stands for it while the graph is kept."""
        instead = self.undone.get(func)
        named = dict(kwargs or {})
        returned = None if writes(func, named) else self.returned
        if returned is not None:
            args = tuple(map(returned.attached, args))
            named = {name: returned.attached(value) for name, value in named.items()}
        value = func(*args, **named) if instead is None else instead(func, *args, **named)
        if returned is None:
            return value
        return returned.unwritten(value) if func in UNWRITTEN else returned.made(value)


def writes(func: Any, named: Mapping[str, Any]) -> bool:
    """Whether a function changes numbers of its arguments, as `x.add_(1)` and `x[0] = 1` do."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and func is not Tensor.requires_grad_
    return in_place or "out" in named or name == "__setitem__"


def stay_on(func: Any, mode: bool) -> None:
    """Gradients may be switched on, not off."""
    if mode:
        func(mode)


def stay_attached(func: Any, x: Tensor, *args: Any, **named: Any) -> Any:
    """The tensor itself, unless it is a leaf such as a weight or a constant."""
    return func(x, *args, **named) if x.is_leaf else x


def stay_differentiable(func: Any, x: Tensor, flag: bool = True) -> Any:
    """A tensor with a graph needs no flag to have a gradient, and keeps that gradient for whoever reads it."""
    if x.is_leaf:
        return func(x, flag)
    if flag and x.requires_grad:
        x.retain_grad()
    return x


def retain(func: Any, *args: Any, **named: Any) -> Any:
    """A backward pass inside a score, after which the graph is still needed."""
    return func(*args, **(named | {"retain_graph": True}))


def leave_torch(func: Any, x: Tensor, *args: Any, **named: Any) -> Any:
    """NumPy takes no tensor with a gradient; what comes back has none, and is judged by that."""
    return func(x.detach(), *args, **named)


def copied(func: Any, x: Any, *args: Any, dtype: Any = None, device: Any = None, **named: Any) -> Any:
    """`torch.tensor(x)` of a tensor with a graph."""
    if isinstance(x, Tensor) and not x.is_leaf:
        return x.clone().to(dtype=dtype or x.dtype, device=device or x.device)
    return func(x, *args, dtype=dtype, device=device, **named)


def finite_power(func: Any, x: Any, exponent: Any, **named: Any) -> Any:
    """x^p with slope 0 at 0."""
    if not (isinstance(x, Tensor) and isinstance(exponent, float) and 0 < exponent < 1):
        return func(x, exponent, **named)
    at_zero = x == 0
    return func(x.masked_fill(at_zero, 1.0), exponent).masked_fill(at_zero, 0.0)


def finite_root(func: Any, x: Tensor, **named: Any) -> Any:
    """The square root with slope 0 at 0."""
    at_zero = x == 0
    return func(x.masked_fill(at_zero, 1.0), **named).masked_fill(at_zero, 0.0)


def slope_one(func: Any, x: Any, *args: Any, **named: Any) -> Any:
    """What rounds, with slope 1 (Bengio, Leonard & Courville, arXiv:1308.3432); the value is kept as a float."""
    value = func(x, *args, **named)
    if not (isinstance(value, Tensor) and isinstance(x, Tensor) and x.requires_grad):
        return value
    return value.detach().to(x.dtype) + (x - x.detach())  # the bracket is exactly 0


def cast(func: Any, x: Any, *args: Any, **named: Any) -> Any:
    """`slope_one` where a cast makes integers."""
    value = func(x, *args, **named)
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        return value
    return slope_one(lambda _: value, x)


UNDONE: dict[Any, Callable[..., Any]] = {
    torch._C._set_grad_enabled: stay_on,
    Tensor.detach: stay_attached,
    Tensor.detach_: stay_attached,
    torch.detach: stay_attached,
    Tensor.data.__get__: stay_attached,  # type: ignore[attr-defined]
    Tensor.requires_grad_: stay_differentiable,
    Tensor.requires_grad.__set__: stay_differentiable,  # type: ignore[attr-defined]
    Tensor.backward: retain,
    torch.autograd.grad: retain,
    Tensor.numpy: leave_torch,
    Tensor.__array__: leave_torch,
    torch.tensor: copied,
    Tensor.pow: finite_power,
    Tensor.__pow__: finite_power,
    torch.pow: finite_power,
    Tensor.sqrt: finite_root,
    torch.sqrt: finite_root,
}

ROUNDS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.round, torch.floor, torch.ceil, torch.trunc, torch.fix), slope_one),
    **dict.fromkeys((Tensor.round, Tensor.floor, Tensor.ceil, Tensor.trunc, Tensor.fix), slope_one),
}

CASTS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((Tensor.byte, Tensor.char, Tensor.short, Tensor.int, Tensor.long, Tensor.to, Tensor.type), cast),
}

UNWRITTEN = {  # what returns memory as it is
    *(torch.empty, torch.empty_like, torch.empty_strided, torch.empty_permuted),
    *(Tensor.new, Tensor.new_empty, Tensor.new_empty_strided),
}


_LOCK = Lock()
_HEARING = torch._C._InferenceMode
_within = 0  # levels of `deaf_inference_mode`, of all threads together


@contextmanager
def deaf_inference_mode() -> Iterator[None]:
    """`torch.inference_mode` that is entered within does nothing, in any thread: its tensors could have no gradient.

    One that was entered before is left as ever, and one that does nothing may be left after.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(step: int) -> None:
    """One level more or less; without any, `torch.inference_mode` hears again."""
    global _within
    with _LOCK:
        _within += step
        kind: Any = (lambda _: nullcontext()) if _within else _HEARING
        torch._C._InferenceMode = kind  # type: ignore[misc]
