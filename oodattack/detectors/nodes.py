"""Detectors as nodes of JSON, and back: class, arguments of the constructor, state. Nothing in a node is executed.

A class is looked up in `oodattack.detectors` and nowhere else; arguments are read from the attributes of their names.
"""

import importlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import Tensor, nn

from oodattack.classifier import Classifier
from oodattack.identity import digest

ROOM = "oodattack.detectors"
CLASS = re.compile(r"([a-z_][a-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)")  # file.Class
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has no word for these
Node = Any  # what JSON can hold


class Stock(NamedTuple):
    """What nodes of JSON refer to.

    Attributes:
        tensors: by their `digest`.
        nets: classifiers, in the order in which the arguments name them.
    """

    tensors: dict[str, Tensor]
    nets: list[Classifier]


def node_of(value: Any, where: str, stock: Stock) -> Node:
    """The node for a value; what it refers to is added to the stock.

    Raises:
        ValueError: the value, which stands at `where`, is of no kind that can be stored.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else {"kind": "float", "value": str(number)}
    if isinstance(value, Tensor):
        return {"kind": "tensor", "sha256": stocked(value, stock)}
    if isinstance(value, Classifier):
        if not any(value is net for net in stock.nets):
            stock.nets.append(value)
        return {"kind": "network", "index": next(i for i, net in enumerate(stock.nets) if net is value)}
    if isinstance(value, nn.Module):
        return module_node(value, where, stock)
    if isinstance(value, Mapping):
        pairs = [[node_of(k, where, stock), node_of(v, f"{where}[{k!r}]", stock)] for k, v in value.items()]
        return {"kind": "dict", "items": pairs}
    if isinstance(value, (list, tuple)):
        return sequence_node(value, where, stock)
    raise ValueError(
        f"{where} must be of a kind that can be saved, got {type(value).__name__}. Save it in your own way."
    )


def sequence_node(value: list[Any] | tuple[Any, ...], where: str, stock: Stock) -> Node:
    """The node for a list, a tuple or a NamedTuple."""
    nodes = [node_of(item, f"{where}[{i}]", stock) for i, item in enumerate(value)]
    if isinstance(value, list):
        return nodes
    if fields := getattr(value, "_fields", None):
        name = class_name(type(value), where)
        return {"kind": "named", "class": name, "items": dict(zip(fields, nodes, strict=True))}
    return {"kind": "tuple", "items": nodes}


def module_node(module: Any, where: str, stock: Stock) -> Node:
    """The node for a detector, or for another module of its file: class, arguments, state and mode."""
    name = class_name(type(module), where)
    arguments = {}
    for key in constructor_arguments(type(module)):
        if not hasattr(module, key):
            raise ValueError(
                f"{where} must keep the argument {key!r} of {name} as an attribute to be saved. "
                "Set it in the constructor."
            )
        arguments[key] = getattr(module, key)
    nodes = {key: node_of(value, f"{where}.{key}", stock) for key, value in arguments.items()}
    state = {key: stocked(t, stock) for key, t in own_state(module, arguments).items()}
    return {"kind": "module", "class": name, "arguments": nodes, "state": state, "training": module.training}


def stocked(tensor: Tensor, stock: Stock) -> str:
    """The name of a tensor in the stock, where it is put."""
    found = tensor.detach().cpu().contiguous()
    key = digest(found)
    stock.tensors.setdefault(key, found)
    return key


def modules_in(value: Any) -> Iterator[nn.Module]:
    """Modules among the values of (nested) arguments."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from modules_in(item)


def own_parts(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The module and all below it by name, without those that came as arguments and what is below those."""
    given = {id(part) for other in modules_in(arguments) for part in other.modules()}
    return {name: part for name, part in module.named_modules(remove_duplicate=False) if id(part) not in given}


def own_state(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The part of the state dict that belongs to `own_parts`."""
    own = own_parts(module, arguments)
    return {key: t for key, t in module.state_dict().items() if key.rpartition(".")[0] in own}


def constructor_arguments(kind: type, *, needed: bool = False) -> list[str]:
    """Names of what a class is made from, or of what it cannot be made without: an older version lacked the others.

    Raises:
        ValueError: it takes any number of them.
    """
    if kind.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return []
    found = inspect.signature(kind).parameters.values()
    if any(a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in found):
        raise ValueError(f"{kind.__name__} must name its arguments to be saved, got * or **. Write them out.")
    return [a.name for a in found if not needed or a.default is a.empty]


def class_name(kind: type, where: str) -> str:
    """file.Class of a class in `oodattack.detectors`."""
    home, _, file = kind.__module__.rpartition(".")
    if home != ROOM or not CLASS.fullmatch(name := f"{file}.{kind.__qualname__}"):
        found = f"{kind.__module__}.{kind.__qualname__}"
        raise ValueError(f"{where} must be of a class of {ROOM} to be saved, got {found}. Save it in your own way.")
    return name


def class_of(name: str, base: type) -> Any:
    """The class below `base` that `class_name` stands for.

    Raises:
        ValueError: there is none in `oodattack.detectors`.
    """
    if match := CLASS.fullmatch(name):
        try:
            module = importlib.import_module(f"{ROOM}.{match[1]}")
        except ModuleNotFoundError:
            module = None
        found = getattr(module, match[2], None)
        if isinstance(found, type) and issubclass(found, base) and found.__module__ == f"{ROOM}.{match[1]}":
            return found
    raise ValueError(f"classes must be such as {ROOM} has, got {name!r}. Another version may know it.")


def value_of(node: Node, stock: Stock, used: set[str]) -> Any:
    """The value that a node stands for; names of tensors on the way are added to `used`."""
    if isinstance(node, list):
        return [value_of(item, stock, used) for item in node]
    if not isinstance(node, dict):
        return node
    kind = node["kind"]
    if kind == "tensor":
        return tensor_of(node["sha256"], stock, used)
    if kind == "network":
        return stock.nets[node["index"]]
    if kind == "module":
        return module_of(node, stock, used)
    if kind == "float":
        return NOT_FINITE[node["value"]]
    if kind == "dict":
        return {value_of(key, stock, used): value_of(item, stock, used) for key, item in node["items"]}
    if kind == "tuple":
        return tuple(value_of(item, stock, used) for item in node["items"])
    if kind == "named":
        items = {key: value_of(item, stock, used) for key, item in node["items"].items()}
        return class_of(node["class"], tuple)(**items)
    raise ValueError(f"nodes must be of a known kind, got {kind!r}. Another version may know it.")


def tensor_of(key: str, stock: Stock, used: set[str]) -> Tensor:
    """A tensor of the stock; a copy, so that two that were equal do not become one."""
    if key not in stock.tensors:
        raise ValueError(f"the tensors must be those of the JSON file, got none called {key!r}. Fit again.")
    used.add(key)
    return stock.tensors[key].clone()


def module_of(node: Node, stock: Stock, used: set[str]) -> nn.Module:
    """The module that a node stands for.

    Raises:
        ValueError: its class, arguments or state do not fit.
    """
    kind = class_of(node["class"], nn.Module)
    arguments = {key: value_of(item, stock, used) for key, item in node["arguments"].items()}
    if not set(constructor_arguments(kind, needed=True)) <= arguments.keys() <= set(constructor_arguments(kind)):
        raise ValueError(
            f"{node['class']} must have arguments {constructor_arguments(kind)}, got {[*arguments]}. "
            "Another version may know them."
        )
    module: nn.Module = kind(**arguments)
    state = {key: tensor_of(item, stock, used) for key, item in node["state"].items()}
    wanted = own_state(module, arguments)
    if {key: t.shape for key, t in wanted.items()} != {key: t.shape for key, t in state.items()}:
        raise ValueError(
            f"{node['class']} must have the state {sorted(wanted)} in its shapes, got {sorted(state)}. "
            "Another version may know it."
        )
    module.load_state_dict(state, strict=False, assign=True)  # keeps the types of what was saved
    stands_on_net = any(isinstance(part, Classifier) for part in module.modules())
    for name, part in own_parts(module, arguments).items():
        if name or not stands_on_net:  # else its mode is that of the network
            part.training = bool(node["training"])
    return module
