"""Detectors of pytorch-ood: Kirchheim, Filax & Ortmeier, "PyTorch-OOD: A Library for Out-of-Distribution Detection
based on PyTorch", CVPR Workshops 2022. Nothing of it is imported here: a detector that is one has brought it along."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from oodattack.adapters.behind import Behind, features_behind, logits_behind
from oodattack.adapters.parts import eval_mode_only, moved, parts_of
from oodattack.adapters.twins import TWINS
from oodattack.detector import Surrogate
from oodattack.keep_graph import NAME, Kept

LIBRARY = "pytorch_ood"
# Scores of gradients, differentiated twice: layers in bfloat16 cannot be, and with ReLUs they jump wherever one opens
# or closes, so that differences in random directions may be unlike the slope, which is the right one all the same.
TWICE = ("GradNorm", "GradUncertainty")


def is_pytorch_ood(detector: Any) -> bool:
    """Whether its class or one above it comes from the library, by name."""
    return any(kind.__module__.partition(".")[0] == LIBRARY for kind in type(detector).__mro__)


class PytorchOOD:
    """A pytorch-ood detector. Its own score, on images in [0, 1], is what is reported.

    What attacks differentiate is a twin from `TWINS` where the score has no gradient, or one that saturates.

    Attributes:
        stock: the detector of the library, fitted; its networks take images in [0, 1], with any mean/std inside.
        surrogate: see `oodattack.Detector`; None where the score itself will do, with its graph kept if need be.
        net: the networks that it stands on, with their logits and features where it says which those are.

    Raises:
        ValueError: a network with norm or dropout layers in training mode.
    """

    def __init__(self, stock: Any) -> None:
        self.stock = stock
        self.__name__ = type(stock).__name__
        logits, features = logits_behind(stock), features_behind(stock)
        self.net = Behind(parts_of(stock, LIBRARY), logits=logits, features=features)
        eval_mode_only(self.net.parts, self.__name__)
        own = type(stock).__module__.partition(".")[0] == LIBRARY
        self.surrogate = TWINS[self.__name__](stock) if own and self.__name__ in TWINS else None
        if own and self.__name__ in TWICE:  # not left to the comparison with differences: see TWICE
            self.surrogate = Surrogate(NAME, Kept(self), exact=True)

    def __call__(self, x: Tensor) -> Tensor:
        """The library's score, shape (B,)."""
        if self.__name__ == "NACUE":  # differentiates in the score, and finds nothing to where weights are frozen
            x = x.detach().requires_grad_()
        full = torch.autocast(x.device.type, enabled=False) if self.__name__ in TWICE else nullcontext()
        with left_as_found(self.stock, self.net), full:
            score: Tensor = self.stock(x)
        return score.to(x.device)  # some go by way of the CPU

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move networks and fitted tensors, in place as `nn.Module.to` does."""
        self.net.to(device, dtype)
        moved(vars(self.stock), device, dtype, LIBRARY)
        return self


@contextmanager
def left_as_found(stock: Any, net: nn.Module) -> Iterator[None]:
    """Undo what a score leaves behind: gradients in the weights and, where it fails, hooks and training mode."""
    grads = {p: p.grad for p in net.parameters()}
    modes = {module: module.training for module in net.modules()}
    for p in grads:
        p.grad = None
    try:
        yield
    except BaseException:
        for module, mode in modes.items():
            module.training = mode
        getattr(stock, "_remove_hooks", lambda: None)()
        raise
    finally:
        for p, grad in grads.items():
            p.grad = grad
