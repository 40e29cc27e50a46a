"""Networks by name: the literal dict, and `build`, which also knows torchvision's and timm's networks and user code."""

import inspect

from torch import nn

from oodattack.faults import fault
from oodattack.lookup import unknown, user_callable
from oodattack.models.published_input import Preprocessing
from oodattack.models.table import MODELS, Model
from oodattack.models.timm_models import from_timm, timm_preprocessing
from oodattack.models.torchvision_models import from_torchvision, torchvision_preprocessing

__all__ = ["MODELS", "Model", "Preprocessing", "build", "by_user_code", "from_user", "preprocessing"]

LIBRARIES = {
    "torchvision": (from_torchvision, torchvision_preprocessing),
    "timm": (from_timm, timm_preprocessing),
}
FORMS = [*MODELS, "torchvision:NAME", "timm:NAME", "pkg.mod:callable"]


def build(name: str, *, channels: int, classes: int) -> nn.Module:
    """An untrained network.

    Args:
        name: a name in `MODELS`; `torchvision:NAME` or `timm:NAME`, a classifier of that library, where a dot and the
            name of published weights may follow, which matters to `preprocessing` only; or `pkg.mod:callable`, user
            code that returns a network and is given `channels` and `classes` if it has arguments of these names.
        channels: of the images, >= 1.
        classes: number of logits, >= 2.

    Returns:
        The network, in training mode unless user code decides otherwise, from torch's global random state.

    Raises:
        ValueError: an unknown name, impossible numbers, a missing library, or user code that fails or returns no
            `nn.Module`.
    """
    if channels < 1 or classes < 2:
        raise ValueError(f"`channels` must be >= 1 and `classes` >= 2, got {channels} and {classes}. Check the data.")
    if name in MODELS:
        return MODELS[name].build(channels, classes)
    library, _, inner = name.partition(":")
    if library in LIBRARIES and inner:
        return LIBRARIES[library][0](inner, channels, classes)
    if ":" in name:
        return from_user(name, channels, classes)
    raise unknown("name", name, FORMS)


def preprocessing(name: str) -> Preprocessing | None:
    """What the published weights of a network want done to the images.

    Args:
        name: as in `build`.

    Returns:
        None for the package's own networks and for user code, whose weights may have been trained on anything.

    Raises:
        ValueError: an unknown name or a missing library.
    """
    library, _, inner = name.partition(":")
    if library in LIBRARIES and inner:
        return LIBRARIES[library][1](inner)
    if name in MODELS or ":" in name:
        return None
    raise unknown("name", name, FORMS)


def by_user_code(name: str) -> bool:
    """Whether a network is neither of this package nor of torchvision or timm."""
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def from_user(source: str, channels: int, classes: int) -> nn.Module:
    """What the user code named `source` returns, given as much of `channels` and `classes` as it takes."""
    make = user_callable(source)
    offered = {"channels": channels, "classes": classes}
    try:
        wanted = inspect.signature(make).parameters
        network = make(**{key: value for key, value in offered.items() if key in wanted})
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise ValueError(f"`{source}` must make a network, got {fault(error)}. Correct it.") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"`{source}` must return an nn.Module, got {type(network).__name__}. Return the network.")
    return network
