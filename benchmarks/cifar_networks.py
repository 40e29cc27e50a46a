"""Three published CIFAR-10 networks: names in `oodattack.models`, weight files, and the normalisation of each."""

from pathlib import Path
from typing import NamedTuple

from oodattack import Classifier, models
from oodattack.models.weights import load_weights, read_weights

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)


class Weights(NamedTuple):
    """The name of a network, the file with its weights, and what it was trained with, in [0, 1] units."""

    model: str
    file: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NETWORKS = {
    "resnet20": Weights("resnet20", "cifar10_resnet20-12fca82f.th", *IMAGENET),
    "resnet32": Weights("resnet32", "cifar10_resnet32-d509ac18.th", *IMAGENET),
    "densenet": Weights("densenet-100-12", "oecc_densenet_cifar10_densenet_OECC_tune_epoch_14.pth", *CIFAR),
}


def load(name: str, folder: Path, *, kind: type[Classifier] = Classifier) -> Classifier:
    """A network of `NETWORKS` with its weights, in eval mode, parameters left trainable.

    Args:
        name: key of `NETWORKS`.
        folder: holds the weight files, or a folder `networks` that does.
        kind: class of the result.
    """
    known = NETWORKS[name]
    path = next((p for p in (folder / known.file, folder / "networks" / known.file) if p.exists()), folder / known.file)
    network = models.build(known.model, channels=3, classes=10)
    load_weights(network, read_weights(path), where=path)
    return kind(network.eval(), mean=known.mean, std=known.std)
