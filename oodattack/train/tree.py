"""Nested states as JSON and named tensors, and back: nothing in them can be executed."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Node = Any  # what JSON can hold


def pack(tree: Any, tensors: dict[str, Tensor], at: str = "state") -> Node:
    """What JSON can hold of a tree; its tensors go into `tensors` under the names of their places.

    Args:
        tree: dicts, lists and tuples of tensors, strings, numbers, bools and None. Tuples become lists.
        tensors: changed in place.
        at: name of the place.

    Raises:
        TypeError: something else in the tree.
    """
    if isinstance(tree, Tensor):
        tensors[at] = tree.detach().cpu().clone().contiguous()
        return {"tensor": at}
    if isinstance(tree, Mapping):  # keys need not be strings, as in an optimiser's state
        return {"dict": [[key, pack(value, tensors, f"{at}.{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [pack(value, tensors, f"{at}.{i}") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(
        f"{at} must be made of tensors and plain values, got {type(tree).__name__}. Keep it out of the state."
    )


def unpack(node: Node, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `pack` took apart."""
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "dict" in node:
        return {key: unpack(value, tensors) for key, value in node["dict"]}
    return [unpack(value, tensors) for value in node["list"]]
