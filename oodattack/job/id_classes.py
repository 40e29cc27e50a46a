"""A network without its outlier class: what every detector sees that was made for networks of ID classes."""

from copy import deepcopy

import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.models.weights import HEAD


def id_classes(net: Classifier, classes: int) -> Classifier:
    """A copy with the first outputs alone: the last row of each head's matrix is cut off.

    Cut off and not hidden, as some detectors read the matrix.

    Args:
        net: with `classes` + 1 outputs.
        classes: number of ID classes.

    Raises:
        ValueError: its head is no `nn.Linear` with that many outputs.
    """
    copy = deepcopy(net)
    heads = {
        name: module
        for name, module in copy.network.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == classes + 1
        and (name == copy.head or HEAD.search(name))
    }
    if copy.head not in heads:
        raise ValueError(
            f"`--model` must end in an nn.Linear with {classes + 1} outputs, so that the outlier class can be cut off, "
            "got none. Take another."
        )
    for head in heads.values():
        head.out_features = classes
        head.weight = nn.Parameter(head.weight.detach()[:classes].clone(), requires_grad=head.weight.requires_grad)
        if head.bias is not None:
            bias: torch.Tensor = head.bias
            head.bias = nn.Parameter(bias.detach()[:classes].clone(), requires_grad=bias.requires_grad)
    return copy
