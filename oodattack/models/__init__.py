"""Networks by name: the literal dict, and `build`, which also knows torchvision's networks and user code."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from oodattack.lookup import unknown, user_callable
from oodattack.models.small import SmallResNet


class Model(NamedTuple):
    """A line of the registry.

    Attributes:
        name: as on the command line.
        source: where the architecture comes from.
        description: what it is.
        build: (channels, classes) -> untrained network from images to logits.
    """

    name: str
    source: str
    description: str
    build: Callable[[int, int], nn.Module]


MODELS: dict[str, Model] = {
    "small": Model(
        "small",
        "after He et al. 2016, arXiv:1512.03385",
        "residual network of 20 thousand weights, widths 8, 16, 32; for 28 to 64 pixels a side",
        lambda channels, classes: SmallResNet(channels, classes),
    ),
}


def build(name: str, *, channels: int, classes: int) -> nn.Module:
    """An untrained network.

    Args:
        name: a name in `MODELS`; `torchvision:NAME`, a classifier of torchvision; or `pkg.mod:callable`, user code that
            returns a network and is given `channels` and `classes` if it has arguments of these names.
        channels: of the images, >= 1.
        classes: number of logits, >= 2.

    Returns:
        The network, in training mode unless user code decides otherwise, from torch's global random state.

    Raises:
        ValueError: an unknown name, impossible numbers, or user code that returns no `nn.Module`.
    """
    if channels < 1 or classes < 2:
        raise ValueError(f"`channels` must be >= 1 and `classes` >= 2, got {channels} and {classes}. Check the data.")
    if name in MODELS:
        return MODELS[name].build(channels, classes)
    if name.startswith("torchvision:"):
        return from_torchvision(name.removeprefix("torchvision:"), channels, classes)
    if ":" in name:
        return from_user(name, channels, classes)
    raise unknown("name", name, [*MODELS, "torchvision:NAME", "pkg.mod:callable"])


def from_torchvision(name: str, channels: int, classes: int) -> nn.Module:
    """One of torchvision's classifiers, without weights; they take RGB only."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision:NAME", name, known)
    if channels != 3:
        raise ValueError(f"`channels` must be 3 for `torchvision:{name}`, got {channels}. Load the data as RGB.")
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network


def from_user(source: str, channels: int, classes: int) -> nn.Module:
    """What the user code named `source` returns, given as much of `channels` and `classes` as it takes."""
    make = user_callable(source)
    offered = {"channels": channels, "classes": classes}
    wanted = inspect.signature(make).parameters
    network = make(**{key: value for key, value in offered.items() if key in wanted})
    if not isinstance(network, nn.Module):
        raise ValueError(f"`{source}` must return an nn.Module, got {type(network).__name__}. Return the network.")
    return network
