"""The linear head of a classifier, and the features that it makes logits of."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from oodattack.classifier import Classifier
from oodattack.classifier.layers import check_plain
from oodattack.detectors.batches import Images, batches
from oodattack.detectors.net import check_net


class Head(NamedTuple):
    """A linear map from features to logits: weight (K, D), bias (K,)."""

    weight: Tensor
    bias: Tensor | None

    def to(self, dtype: torch.dtype) -> "Head":
        """The same map in another precision."""
        return Head(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


def head_of(net: Classifier) -> Head:
    """The head, as the linear map that it must be: an `nn.Linear` or, as in BiT networks, a convolution of 1 x 1.

    In the network's precision, but not in 16 bits, in which what is fitted to it would be rounded.

    Raises:
        TypeError: as `check_net`.
        ValueError: it is something else.
    """
    check_net(net, "features")
    head = net.get_submodule(f"network.{net.head}")
    if isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.groups == 1 and head.kernel_size == (1, 1)):
        return Head(head.weight.flatten(1), head.bias).to(torch.promote_types(head.weight.dtype, torch.float32))
    check_plain(head)
    raise ValueError(
        f"`net` must have an `nn.Linear` or 1 x 1 convolution as head, got {type(head).__name__}. "
        "Name one with `head=...`."
    )


def head_logits(net: Classifier, h: Tensor) -> Tensor:
    """W h + b of the head, shape (B, K), for features h of shape (B, D), in their precision."""
    head = head_of(net).to(h.dtype)
    return linear(h, head.weight, head.bias)


def features_of(net: Classifier, rows: Tensor, *, check: bool) -> Tensor:
    """Penultimate features of images to fit on, shape (b, D). No gradient.

    Args:
        net: classifier with a linear head.
        rows: images, shape (b, C, H, W).
        check: whether to make sure that the head makes the logits out of them.

    Raises:
        ValueError: a head whose output is not the logits, or that is called at more than one position.
    """
    with torch.no_grad():
        seen, width = net.run(rows), head_of(net).weight.shape[1]
        if seen.features.shape[1] != width:  # a convolution in front of the pooling
            raise ValueError(
                f"head {net.head!r} must take {width} features, got {seen.features.shape[1]}: more than one position. "
                "Take another detector."
            )
        if check and not torch.allclose(head_logits(net, seen.features), seen.logits, rtol=1e-3, atol=1e-4):
            raise ValueError(f"the output of head {net.head!r} must be the logits, got others. Name another head.")
    return seen.features


def batches_of_features(net: Classifier, x: Images, batch_size: int) -> Iterator[Tensor]:
    """Penultimate features of images to fit on, batch by batch: shapes (b, D). No gradient.

    Raises:
        ValueError: no images, or a head whose output is not the logits.
    """
    for i, (rows, _) in enumerate(batches(x, net=net, batch_size=batch_size)):
        yield features_of(net, rows, check=not i)


def mean_features(net: Classifier, x: Images, batch_size: int) -> Tensor:
    """Mean penultimate features, shape (D,), float64, summed batch by batch."""
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for z in batches_of_features(net, x, batch_size):
        total = total.to(z.device) + z.double().sum(dim=0)
        rows += len(z)
    return total / rows


def percentile(values: Tensor, q: float) -> float:
    """The value below which q per cent of all entries are, interpolated; of any number of entries."""
    import numpy as np

    return float(np.percentile(values.detach().double().cpu().numpy(), q))
