"""Networks of timm (PyTorch Image Models) by name, without weights, and how their published weights want their images.

timm is optional: the extra `timm`.
"""

import difflib
import importlib
import math
from types import ModuleType

from torch import nn

from oodattack.lookup import summary
from oodattack.models.published_input import Preprocessing


def from_timm(name: str, channels: int, classes: int) -> nn.Module:
    """One of timm's classifiers, without weights; nothing is downloaded.

    Raises:
        ValueError: timm is missing, or an unknown name, or numbers that the network cannot be made for.
    """
    timm = installed_timm()
    check_name(timm, name)
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes)
    except Exception as error:  # an unknown tag behind the name, or whatever one of a thousand networks raises
        raise ValueError(f"`timm:{name}` must build, got {summary(error)}. Pick another name.") from error
    return network


def timm_preprocessing(name: str) -> Preprocessing | None:
    """What timm keeps with the weights of a network, for the resolution it was trained at; None where it keeps nothing.

    The shorter side becomes floor(crop / crop_pct), of which the middle is taken; "squash" stretches the whole image.

    Raises:
        ValueError: timm is missing, an unknown name, or a preprocessing that is not resize and crop to a square.
    """
    timm = installed_timm()
    check_name(timm, name)
    known = timm.get_pretrained_cfg(name)
    if known is None:
        return None
    config = importlib.import_module("timm.data").resolve_data_config(pretrained_cfg=known.to_dict())
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] not in ("center", "squash"):
        got = f"{height} x {width} with crop mode {config['crop_mode']!r}"
        raise ValueError(
            f"`timm:{name}` must take the middle square of an image, got {got}. Prepare the images yourself."
        )
    side = math.floor(height / config["crop_pct"])
    size = (side, side) if config["crop_mode"] == "squash" else side
    return Preprocessing(tuple(config["mean"]), tuple(config["std"]), size, height, config["interpolation"])


def installed_timm() -> ModuleType:
    """The package timm.

    Raises:
        ValueError: it is missing.
    """
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ValueError("`timm:NAME` must have the package timm, got none. Install oodattack[timm].") from error


def check_name(timm: ModuleType, name: str) -> None:
    """Raise ValueError unless timm knows the network; there are too many to list."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else "See `timm.list_models()`."
        raise ValueError(f"`timm:NAME` must be a network of timm, got {name!r}. {remedy}")
