"""Fitted detectors as files: what they are made of in JSON, their tensors in safetensors. Neither can execute anything.

A detector is stored as its class, the arguments of its constructor, each read from the attribute of the same name, and
the state of what it has learned. The networks that it stands on are not: loading asks for them and compares weights. A
class is looked up in `oodattack.detectors` and nowhere else. Tensors are named by what is in them, so that equal ones
are written once and a damaged one is noticed.
"""

import hashlib
import importlib
import inspect
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack import __version__
from oodattack.detector import Classifier

FORMAT = 1
ROOM = "oodattack.detectors"
CLASS = re.compile(r"([a-z_][a-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)")  # file.Class
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has no word for these
Networks = Classifier | Sequence[Classifier] | None
Node = Any  # what JSON can hold


class Stock(NamedTuple):
    """What nodes of JSON refer to.

    Attributes:
        tensors: by their `digest`.
        nets: classifiers, in the order in which the arguments name them.
    """

    tensors: dict[str, Tensor]
    nets: list[Classifier]


def save(detector: nn.Module, path: str | Path) -> None:
    """Write `path`.json and `path`.safetensors, each in one go: never half a file.

    Args:
        detector: of a class of `oodattack.detectors`, such as those of the table.
        path: without the endings; its folder must exist.

    Raises:
        ValueError: a detector that is made of something else, such as user code, or a file that cannot be written.
    """
    from safetensors.torch import save as to_bytes

    stock = Stock({}, [])
    node = module_node(detector, "`detector`", stock)
    record = {
        "format": FORMAT,
        "version": __version__,
        "name": str(getattr(detector, "name", "")),
        "networks": [network_sha256(net) for net in stock.nets],
        "detector": node,
    }
    words = json.dumps(record, indent=1, allow_nan=False) + "\n"
    replace_file(ended(path, ".safetensors"), to_bytes({key: t.clone() for key, t in stock.tensors.items()}))
    replace_file(ended(path, ".json"), words.encode())


def load(path: str | Path, net: Networks = None, *, any_network: bool = False) -> nn.Module:
    """The detector that `save` wrote, with the same scores to the last bit, on the device of its network.

    Args:
        path: without the endings.
        net: the classifier that it was fitted on; several, in their order, for a detector of several; None for one that
            stands on none.
        any_network: take other weights than those that it was fitted on.

    Raises:
        ValueError: a file that is missing, damaged, of another format or written by something else, or another network.
    """
    nets = [net] if isinstance(net, Classifier) else list(net or ())
    record, tensors = read(path)
    device = next((t.device for one in nets for t in (*one.parameters(), *one.buffers())), None)
    used: set[str] = set()
    try:
        check_networks(record["networks"], nets, any_network=any_network)
        stock = Stock({key: t.to(device) for key, t in tensors.items()}, nets)
        detector = module_of(record["detector"], stock, used)
        check_rest(record, detector, unused=tensors.keys() - used)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever nodes of another shape, or a constructor, lead to
        raise ValueError(f"{path}: the file must be as `save` writes it, got {brief(error)}. Fit again.") from error
    return detector if device is None else detector.to(device)


def fingerprint(detector: object) -> str | None:
    """sha256 over class, arguments and tensors of a detector, not of its networks; None for what cannot be saved.

    Equal for equal detectors, also after `save` and `load`, on any device. float32 and float64 differ.
    """
    try:
        node = module_node(detector, "`detector`", Stock({}, []))
    except ValueError:
        return None
    return hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()


def network_sha256(net: Classifier) -> str:
    """sha256 over a classifier's weights and buffers, its normalisation and the name of its head.

    Of values, not of their type: a copy in float64 is the same network.
    """
    state = {**net.state_dict(), "mean": net.mean, "std": net.std}
    parts = [f"{key} {digest(t.cpu().double() if t.is_floating_point() else t)}" for key, t in sorted(state.items())]
    return hashlib.sha256("\n".join([net.head, *parts]).encode()).hexdigest()


def digest(tensor: Tensor) -> str:
    """sha256 over type, shape and bytes of a tensor."""
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    if tensor.numel():
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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
    raise ValueError(f"{where} must be of a kind that can be saved, got {type(value).__name__}.")


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
            raise ValueError(f"{where} must keep the argument {key!r} of {name} as an attribute to be saved.")
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


def constructor_arguments(kind: type) -> list[str]:
    """Names of what a class is made from.

    Raises:
        ValueError: it takes any number of them.
    """
    if kind.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return []
    found = inspect.signature(kind).parameters.values()
    if any(a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in found):
        raise ValueError(f"{kind.__name__} must name its arguments to be saved, got * or **.")
    return [a.name for a in found]


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
    if arguments.keys() != set(constructor_arguments(kind)):
        raise ValueError(f"{node['class']} must have arguments {constructor_arguments(kind)}, got {[*arguments]}.")
    module: nn.Module = kind(**arguments)
    state = {key: tensor_of(item, stock, used) for key, item in node["state"].items()}
    wanted = own_state(module, arguments)
    if {key: t.shape for key, t in wanted.items()} != {key: t.shape for key, t in state.items()}:
        raise ValueError(f"{node['class']} must have the state {sorted(wanted)} in its shapes, got {sorted(state)}.")
    module.load_state_dict(state, strict=False, assign=True)  # keeps the types of what was saved
    stands_on_net = any(isinstance(part, Classifier) for part in module.modules())
    for name, part in own_parts(module, arguments).items():
        if name or not stands_on_net:  # else its mode is that of the network
            part.training = bool(node["training"])
    return module


def check_networks(saved: Sequence[str], nets: Sequence[Classifier], *, any_network: bool) -> None:
    """Raise ValueError unless the networks are as many as those that were fitted on and, if asked, the same."""
    if len(saved) != len(nets):
        raise ValueError(f"`net` must be the network or networks of the detector, {len(saved)}, got {len(nets)}.")
    for sha256, net in zip(saved, nets, strict=True):
        if not any_network and (found := network_sha256(net)) != sha256:
            raise ValueError(
                f"`net` must be the network that the detector was fitted on, sha256 {sha256}, got {found}. Pass "
                "any_network=True to take another one."
            )


def check_rest(record: Mapping[str, Node], detector: nn.Module, *, unused: Set[str]) -> None:
    """Raise ValueError if a file has tensors that the detector does not need, or calls it by another name."""
    if unused:
        raise ValueError(f"the tensors must be those of the JSON file, got {min(unused)!r} too. Fit again.")
    if record["name"] != (name := str(getattr(detector, "name", ""))):
        raise ValueError(f"`name` must be {name!r}, that of {record['detector']['class']}, got {record['name']!r}.")


def read(path: str | Path) -> tuple[dict[str, Node], dict[str, Tensor]]:
    """What both files hold: the record and the tensors, each checked against its name.

    Raises:
        ValueError: a file is missing, unreadable, of another format or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    file = ended(path, ".json")
    try:
        record = json.loads(content(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: must be JSON as `save` writes it, got {brief(error)}. Fit again.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{file}: must be a detector of format {FORMAT}, got {found}. Another version may read it.")
    file = ended(path, ".safetensors")
    try:
        tensors = from_bytes(content(file))
    except SafetensorError as error:
        raise ValueError(f"{file}: must be a safetensors file, got {brief(error)}. Fit again.") from error
    for key, tensor in tensors.items():
        if digest(tensor) != key:
            raise ValueError(f"{file}: tensors must be named by their sha256, got {key!r}. It is damaged: fit again.")
    return record, tensors


def content(file: Path) -> bytes:
    """All bytes of a file that must be there."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: must be a file that can be read, got {brief(error)}. Check the path.") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside, then give it the name: whoever looks sees the old one or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"{path}: must be a file that can be written, got {brief(error)}. Check folder.") from error
    finally:
        part.unlink(missing_ok=True)


def ended(path: str | Path, ending: str) -> Path:
    """`path` with an ending, in place of one of ours if it has that."""
    path = Path(path)
    stem = path.stem if path.suffix in (".json", ".safetensors") else path.name
    return path.with_name(stem + ending)


def brief(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(".: ")
