"""Networks that a detector of the table cannot tell anything on, as far as images and labels show."""

from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor

from oodattack.detectors import GaiaZ
from oodattack.job.networks import OF_THE_CLASS, Network


def check_open(name: str, detector: object, x: Tensor) -> None:
    """Refuse a detector that counts zero gradients on a network where there are none.

    Args:
        name: of the detector.
        detector: itself.
        x: an image or more, shape (B, C, H, W).

    Raises:
        ValueError: no norm layer is followed by an activation with a flat part: the score is a constant.
    """
    if not isinstance(detector, GaiaZ) or detector.surrogate is None:
        return
    refused = None
    with torch.no_grad(), suppress(Exception):  # images that a network does not take: scoring says so
        try:
            detector.surrogate.score(x)
        except ValueError as error:
            refused = error if bool((detector(x) == 1).all()) else None  # else there is a ReLU, in other words
    if refused is not None:
        raise ValueError(f"detector {name!r}: {refused}") from refused


def check_outlier_class(name: str, network: Network, x: Tensor, labels: Mapping[str, Tensor | None]) -> None:
    """Refuse to read an ID class as that of outliers, where nothing but labels says which it is.

    Args:
        name: of the detector in the table; others than `OF_THE_CLASS` are left alone.
        network: what it stands on.
        x: an image or more, shape (B, C, H, W).
        labels: option -> labels of ID images, where there are some.

    Raises:
        ValueError: the labels of ID images reach the last logit.
    """
    if name != OF_THE_CLASS or network.whole is not network.net:  # else its record has told
        return
    logits = None
    with torch.no_grad(), suppress(Exception):  # as above
        logits = network.net.logits(x).shape[1]
    for option, y in labels.items():
        if y is not None and logits is not None and (highest := int(y.max())) >= logits - 1:
            raise ValueError(
                f"`--detector` {OF_THE_CLASS} must have a network with an outlier class behind those of ID images, got "
                f"{logits} logits for labels 0..{highest} of {option}. Take a network with one, such as `oodattack "
                "train` makes with dos or openmix."
            )
