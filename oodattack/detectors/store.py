"""Fitted detectors as files: what they are made of in JSON, their tensors in safetensors. Neither can execute anything.

A detector is stored as its class, the arguments of its constructor, each read from the attribute of the same name, and
the state of what it has learned. The networks that it stands on are not: loading asks for them and compares weights. A
class is looked up in `oodattack.detectors` and nowhere else. Tensors are named by what is in them, so that equal ones
are written once and a damaged one is noticed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from torch import Tensor, nn

from oodattack import __version__
from oodattack.classifier import Classifier
from oodattack.detectors.nodes import Node, Stock, module_node, module_of
from oodattack.identity import digest
from oodattack.lookup import summary
from oodattack.whole_file import write_file

FORMAT = 1
Networks = Classifier | Sequence[Classifier] | None


def save(detector: nn.Module, path: str | Path) -> None:
    """Write `path`.json and `path`.safetensors, each in one go: never half a file.

    Args:
        detector: of a class of `oodattack.detectors`, such as those of the table.
        path: without the endings; folders above are made.

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
    write_file(ended(path, ".safetensors"), to_bytes({key: t.clone() for key, t in stock.tensors.items()}))
    write_file(ended(path, ".json"), words.encode())


def load(path: str | Path, net: Networks = None, *, any_network: bool = False) -> nn.Module:
    """The detector that `save` wrote, with the same scores to the last bit, on the device of its network.

    Args:
        path: without the endings.
        net: the classifier that it was fitted on; several, in their order, for a detector of several; None for one that
            stands on none.
        any_network: take other weights than those that it was fitted on.

    Raises:
        ValueError: a file that is missing, damaged, of another format or written by something else.
        OtherNetwork: another network; a ValueError.
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
    except OtherNetwork as error:
        raise OtherNetwork(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever nodes of another shape, or a constructor, lead to
        raise ValueError(f"{path}: the file must be as `save` writes it, got {summary(error)}. Fit again.") from error
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


class OtherNetwork(ValueError):
    """A network with other weights than the one that the detector was fitted on."""


def check_networks(saved: Sequence[str], nets: Sequence[Classifier], *, any_network: bool) -> None:
    """Raise ValueError unless the networks are as many as those that were fitted on and, if asked, the same."""
    if len(saved) != len(nets):
        raise ValueError(
            f"`net` must be the network or networks of the detector, {len(saved)}, got {len(nets)}. "
            "Pass them in their order."
        )
    for sha256, net in zip(saved, nets, strict=True):
        if not any_network and (found := network_sha256(net)) != sha256:
            raise OtherNetwork(
                f"`net` must be the network that the detector was fitted on, sha256 {sha256}, got {found}. Pass "
                "any_network=True to take another one."
            )


def check_rest(record: Mapping[str, Node], detector: nn.Module, *, unused: Set[str]) -> None:
    """Raise ValueError if a file has tensors that the detector does not need, or calls it by another name."""
    if unused:
        raise ValueError(f"the tensors must be those of the JSON file, got {min(unused)!r} too. Fit again.")
    if record["name"] != (name := str(getattr(detector, "name", ""))):
        raise ValueError(
            f"`name` must be {name!r}, that of {record['detector']['class']}, got {record['name']!r}. Fit again."
        )


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
        raise ValueError(f"{file}: must be JSON as `save` writes it, got {summary(error)}. Fit again.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{file}: must be a detector of format {FORMAT}, got {found}. Another version may read it.")
    file = ended(path, ".safetensors")
    try:
        tensors = from_bytes(content(file))
    except SafetensorError as error:
        raise ValueError(f"{file}: must be a safetensors file, got {summary(error)}. Fit again.") from error
    for key, tensor in tensors.items():
        if digest(tensor) != key:
            raise ValueError(f"{file}: tensors must be named by their sha256, got {key!r}. It is damaged: fit again.")
    return record, tensors


def content(file: Path) -> bytes:
    """All bytes of a file that must be there."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: must be a file that can be read, got {summary(error)}. Check the path.") from error


def ended(path: str | Path, ending: str) -> Path:
    """`path` with an ending, in place of one of ours if it has that."""
    path = Path(path)
    stem = path.stem if path.suffix in (".json", ".safetensors") else path.name
    return path.with_name(stem + ending)
