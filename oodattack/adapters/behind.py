"""The network behind a detector of another library, as attacks on logits and features look for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from oodattack.detector import Latent


class Behind(nn.Module):
    """Networks of a detector; has `logits` (B, K) and `features` (B, D) of images where they are known.

    Attributes:
        parts: the networks.
    """

    logits: Latent
    features: Latent

    def __init__(self, parts: Sequence[nn.Module], *, logits: Latent | None, features: Latent | None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        if logits is not None:
            self.logits = logits
        if features is not None:
            self.features = features


@dataclass(frozen=True)
class Output:
    """What networks of a pytorch-ood detector make of images, one after the other; equal for equal detectors.

    Attributes:
        stock: the detector.
        parts: names of the attributes that hold them.
    """

    stock: Any
    parts: tuple[str, ...] = ("model",)

    def __call__(self, x: Tensor) -> Tensor:
        """The output of the last, on the device of the detector."""
        x = placed(self.stock, x)
        for part in self.parts:
            x = getattr(self.stock, part)(x)
        return x


def placed(stock: Any, x: Tensor) -> Tensor:
    """Images where a detector wants them, which it says of itself."""
    return x if stock.device is None else x.to(stock.device)


def logits_behind(stock: Any) -> Latent | None:
    """Logits, by what the library calls networks: a `model`, or a `head` on an `encoder` or a `backbone`."""
    for parts in (("model",), ("encoder", "head"), ("backbone", "head")):
        if all(callable(getattr(stock, part, None)) for part in parts):
            return Output(stock, parts)
    return None


def features_behind(stock: Any) -> Latent | None:
    """Features, which the library's `encoder` gives."""
    encoder: Callable[[Tensor], Tensor] | None = getattr(stock, "encoder", None)
    return Output(stock, ("encoder",)) if callable(encoder) else None
