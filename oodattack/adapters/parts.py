"""What a detector of another library is made of: the networks and tensors behind its attributes."""

from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

STORES = (nn.ParameterDict, nn.ParameterList)  # of fitted tensors, in training mode for ever


def parts_of(owner: Any, library: str) -> list[nn.Module]:
    """Networks behind the attributes of an object, each once: in containers, bound methods, closures and the library's
    own objects too."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def look(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            if not isinstance(value, STORES):
                found[id(value)] = value
            return
        for inner in inside(value, library):
            look(inner)

    for value in vars(owner).values():
        look(value)
    return list(found.values())


def inside(value: Any, library: str) -> Iterator[Any]:
    """What an attribute holds, where it is of a kind that holds something."""
    if isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or ())
    elif type(value).__module__.partition(".")[0] == library:
        yield from vars(value).values() if hasattr(value, "__dict__") else ()
    elif hasattr(value, "__self__"):
        yield value.__self__


def eval_mode_only(net: nn.Module, name: str) -> None:
    """Raise ValueError if a layer whose output depends on the mode is in training mode.

    Others may be: a container around the layers of a network in eval mode is in training mode itself.
    """
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    training = [f" in {path!r}" for path, m in net.named_modules() if isinstance(m, kinds) and m.training]
    if training:
        raise ValueError(f"detector {name!r} must be in eval mode, got training mode{training[0]}. Call .eval() first.")


def moved(value: Any, device: torch.device, dtype: torch.dtype, library: str) -> Any:
    """A tensor on the device and, if it has a fraction, of the type; of anything else the tensors that it holds.

    Lists, dictionaries and objects of the library are changed in place; networks are left alone.
    """
    if isinstance(value, Tensor):
        there = value.data.to(device, dtype if value.is_floating_point() else value.dtype)
        if not isinstance(value, nn.Parameter):
            return there
        value.data = there
    elif isinstance(value, STORES):
        value.to(device, dtype)
    elif isinstance(value, list):
        value[:] = [moved(inner, device, dtype, library) for inner in value]
    elif isinstance(value, dict):
        value.update({key: moved(inner, device, dtype, library) for key, inner in value.items()})
    elif type(value).__module__.partition(".")[0] == library and hasattr(value, "__dict__"):
        moved(vars(value), device, dtype, library)
    return value
