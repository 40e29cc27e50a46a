"""Networks of torchvision by name, without weights, and how their published weights want their images.

A name is that of the network, as in resnet50, or goes on with that of published weights, as in resnet50.IMAGENET1K_V1.
"""

from typing import Any

from torch import nn

from oodattack.lookup import unknown
from oodattack.models.published_input import Preprocessing


def from_torchvision(name: str, channels: int, classes: int) -> nn.Module:
    """One of torchvision's classifiers, without weights; they take RGB only.

    Raises:
        ValueError: an unknown name, or another number of channels than 3.
    """
    from torchvision import models

    network_name, _ = parse(name)
    if channels != 3:
        raise ValueError(
            f"`channels` must be 3 for `torchvision:{name}`, got {channels}. Load the data as RGB, with --protocol "
            "grey-to-rgb for example."
        )
    network: nn.Module = models.get_model(network_name, weights=None, num_classes=classes)
    return network


def torchvision_preprocessing(name: str) -> Preprocessing | None:
    """The transforms that torchvision keeps with the named weights, else with its default weights of the network.

    Weights of one network may differ in this: ResNet-50's version 1 resizes to 256, its default version 2 to 232.

    Returns:
        None where torchvision has no weights.

    Raises:
        ValueError: an unknown name.
    """
    _, weights = parse(name)
    if weights is None:
        return None
    transforms = weights.transforms()
    return Preprocessing(
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.resize_size[0],
        transforms.crop_size[0],
        transforms.interpolation.value,
    )


def parse(name: str) -> tuple[str, Any]:
    """Name of the network, and its weights: those named behind a dot, else the default ones, None if there are none.

    Raises:
        ValueError: no such classifier, or no such weights of it.
    """
    from torchvision import models

    network, dot, tag = name.partition(".")
    known = models.list_models(module=models)
    if network not in known:
        raise unknown("torchvision:NAME", network, known)
    weights = models.get_model_weights(network)
    if dot and tag not in weights.__members__:
        raise unknown(f"torchvision:{network}.WEIGHTS", tag, list(weights.__members__))
    return network, weights[tag] if dot else getattr(weights, "DEFAULT", None)
