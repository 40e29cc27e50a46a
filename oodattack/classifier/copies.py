"""Faster copies of a classifier, which take its place inside a search. Scores are always its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from oodattack.classifier.folding import fold, reduced

if TYPE_CHECKING:
    from oodattack.classifier import Classifier

_searching: ContextVar[object] = ContextVar("searching", default=None)


@contextmanager
def searching(search: object) -> Iterator[None]:
    """Within, `Classifier.logits` and `.features` may take a faster copy of the network. Never while scoring.

    Args:
        search: names one search; the copy is compared with the network once for each.
    """
    token = _searching.set(search)
    try:
        yield
    finally:
        _searching.reset(token)


@dataclass
class Copies:
    """The copies of one classifier.

    Attributes:
        search: in which `folded` was last compared with the classifier.
        folded: None where no folded copy gives the same.
        reduced: `folded` with weights in bfloat16, or `folded` itself where that gives something else; None before any
            layer has computed in bfloat16.
    """

    search: object = None
    folded: "Classifier | None" = None
    reduced: "Classifier | None" = None

    def fastest(self, net: "Classifier", x: Tensor) -> "Classifier":
        """The fastest copy of `net`, inside `searching` and if there is one; else `net`."""
        search = _searching.get()
        if search is None:
            return net
        if search is not self.search:  # since the last one the network may have changed
            if self.folded is None or not same_in_full(self.folded, net, x):
                self.folded, self.reduced = folded(net, x), None
            self.search = search
        if self.folded is None:
            return net
        return self._rounded_once(self.folded, x) if in_bfloat16(x) else self.folded

    def _rounded_once(self, folded: "Classifier", x: Tensor) -> "Classifier":
        """`reduced`, whose weights autocast need not round in every pass."""
        if self.reduced is None:
            copy = around(reduced(folded.network), folded)
            self.reduced = copy if same(copy, folded, x) else folded
        return self.reduced


def in_bfloat16(x: Tensor) -> bool:
    """Whether layers compute in bfloat16 on the device of `x`."""
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16


def folded(net: "Classifier", x: Tensor) -> "Classifier | None":
    """A folded copy, if there is one that gives the same.

    Laid out channels last but for float32 on a GPU, whose fast convolutions are for the usual layout.
    """
    kind = x.device.type
    network = fold(net.network, channels_last=kind == "cpu" or torch.is_autocast_enabled(kind))
    if network is None:
        return None
    try:
        copy = around(network, net)
    except ValueError:  # the head did not survive
        return None
    return copy if same_in_full(copy, net, x) else None


def around(network: nn.Module, net: "Classifier") -> "Classifier":
    """A classifier with the head and normalisation of `net`; ValueError where the network has no such head."""
    from oodattack.classifier import Classifier  # which imports this file

    copy = Classifier(network, head=net.head)
    copy.mean, copy.std = net.mean, net.std
    return copy


def same_in_full(copy: "Classifier", net: "Classifier", x: Tensor) -> bool:
    """`same` in full precision: in reduced, the network itself is further from its logits than a copy may be."""
    with torch.autocast(x.device.type, enabled=False):
        return same(copy, net, x)


def same(copy: "Classifier", net: "Classifier", x: Tensor) -> bool:
    """Whether a copy has the logits and features of `net` on the first rows of `x`."""
    with torch.no_grad():
        own = net.run(x[:4].detach())
        try:
            its = copy.run(x[:4].detach())
        except Exception:  # a copy that fails is no copy
            return False
    return agree(its.logits, own.logits) and agree(its.features, own.features)


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two results are equal up to the rounding of a network: one part in a thousand of the largest."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())
