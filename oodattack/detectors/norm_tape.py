"""What becomes of the output of a norm layer on its way to the next activation."""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from oodattack.detectors.open_window import Window, window
from oodattack.detectors.smooth_relu import input_of, plain

# Each output of these depends on many inputs: a gradient that comes through them is non-zero at all of them.
MIXING = {
    *(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3)), "linear", "bilinear", "matmul",
    "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "tensordot", "scaled_dot_product_attention",
    "multi_head_attention_forward", "layer_norm", "group_norm",
}  # fmt: skip


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
        call = plain(func, args, kwargs)
        if seen := window(*call):
            before = input_of(*call[1:]).clone()  # it may work in place
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
