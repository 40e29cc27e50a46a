"""The quantity that a saliency map explains: the raw logit of the predicted class."""

from collections.abc import Iterator

import torch
from torch import Tensor

from oodattack.classifier import Classifier

BLOCK = 128  # images a forward pass where a map needs many passes an image; larger ones leave the processor's cache


def predicted(net: Classifier, x: Tensor) -> Tensor:
    """argmax_k f_k(x), shape (B,): a constant to whoever differentiates."""
    with torch.no_grad():
        return net.logits(x).argmax(dim=1)


def chosen_logit(logits: Tensor, label: Tensor) -> Tensor:
    """f_c of logits (B, K) and classes c (B,), shape (B,). Not softmax: the paper's maps keep their magnitude."""
    return logits.gather(1, label[:, None])[:, 0]


def blocks(copies: int, rows: int) -> Iterator[slice]:
    """Slices of 0..copies-1 so that a slice of copies of all rows makes about `BLOCK` images, and at least one copy."""
    size = max(1, BLOCK // max(1, rows))
    return (slice(start, start + size) for start in range(0, copies, size))


def differentiated(x: Tensor) -> tuple[Tensor, bool]:
    """What to take gradients at, and whether they need a graph: x itself if somebody differentiates it, else a leaf."""
    graph = torch.is_grad_enabled() and x.requires_grad
    return (x if graph else x.detach().requires_grad_()), graph
