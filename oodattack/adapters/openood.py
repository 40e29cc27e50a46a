"""Postprocessors of OpenOOD v1.5: Zhang et al., "OpenOOD v1.5: Enhanced Benchmark for Out-of-Distribution Detection",
arXiv:2306.09301. They are taken for what they can do, `postprocess(net, data) -> (pred, conf)`; nothing is imported."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from oodattack.adapters.behind import Behind
from oodattack.adapters.openood_twins import TWINS, Features, Logits
from oodattack.adapters.parts import eval_mode_only, moved
from oodattack.classifier.normalisation import normalisation, normalised

LIBRARY = "openood"


class OpenOOD:
    """A postprocessor on its network: score = -conf on images in [0, 1]. Made by `openood`.

    Attributes:
        postprocessor: of OpenOOD, set up.
        network: with what OpenOOD asks of it.
        mean: subtracted per channel, shape (1, C, 1, 1).
        std: divides per channel.
        surrogate: see `oodattack.Detector`; None where the score itself will do once its graph is kept.
        net: the network with its logits and features of images in [0, 1].
    """

    def __init__(self, postprocessor: Any, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        self.postprocessor, self.network, self.mean, self.std = postprocessor, network, mean, std
        kind = type(postprocessor)
        self.__name__ = kind.__name__.removesuffix("Postprocessor").removesuffix("PostProcessor") or LIBRARY
        self.net = Behind([network], logits=Logits(self), features=Features(self))
        own = kind.__module__.partition(".")[0] == LIBRARY
        self.surrogate = TWINS[kind.__name__](self) if own and kind.__name__ in TWINS else None

    def __call__(self, x: Tensor) -> Tensor:
        """Scores, shape (B,).

        A copy goes in, as some postprocessors ask for its gradient, and autograd is on, as they differentiate without
        saying so. A gradient of the score appears once the graph is kept, see `oodattack.keep_graph`.
        """
        data = self.normalised(x).detach().clone()
        with torch.enable_grad(), untouched(self.network):
            conf = confidence(self.postprocessor.postprocess(self.network, data), len(x), self.__name__)
        return -conf.to(x.device)

    def normalised(self, x: Tensor) -> Tensor:
        """What the network is given.

        Raises:
            ValueError: images with other channels than `mean`.
        """
        return normalised(x, self.mean.to(x), self.std.to(x))

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move the network and tensors of the postprocessor, in place as `nn.Module.to` does."""
        self.network.to(device, dtype)
        moved(vars(self.postprocessor), device, dtype, LIBRARY)
        return self


def openood(
    postprocessor: Any, net: nn.Module, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> OpenOOD:
    """A detector of an OpenOOD postprocessor that has been set up, and its network.

    Args:
        postprocessor: anything with `postprocess(net, data) -> (pred, conf)`, where a higher `conf` means more ID.
        net: what `postprocess` is given, in eval mode; for ReAct, ASH, SCALE and AdaScale the network that OpenOOD
            wraps for them.
        mean: what images in [0, 1] are normalised with, one number a channel; None for no normalisation.
        std: the same, > 0.

    Raises:
        ValueError: something else, a network in training mode, or mean/std that do not go together.
    """
    if isinstance(postprocessor, type):
        made = postprocessor.__name__
        raise ValueError(f"`postprocessor` must be an object, got the class {made}. Make one of it: {made}(...).")
    if not callable(getattr(postprocessor, "postprocess", None)):
        kind = type(postprocessor).__name__
        raise ValueError(f"`postprocessor` must have a method `postprocess`, got {kind}. Give one of OpenOOD's.")
    if not isinstance(net, nn.Module):
        kind = type(net).__name__
        raise ValueError(f"`net` must be a network, got {kind}. Give the one that the postprocessor was set up with.")
    shift, scale = normalisation(mean, std)
    eval_mode_only(net, type(postprocessor).__name__)
    return OpenOOD(postprocessor, net, shift, scale)


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Within, weights ask for no gradient: none is left in them, and none is needed to change features in place."""
    flags = {p: p.requires_grad for p in net.parameters()}
    for p in flags:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)


def confidence(answer: Any, n: int, name: str) -> Tensor:
    """The second of what `postprocess` returned, as n numbers; some postprocessors give a column, or an array.

    Raises:
        ValueError: something else.
    """
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise ValueError(f"{name} must return (pred, conf), got {type(answer).__name__}. Is it a postprocessor?")
    conf = torch.as_tensor(answer[1])
    if conf.shape not in ((n,), (n, 1)):
        raise ValueError(f"{name} must return one conf a row, ({n},), got {tuple(conf.shape)}. Set it up first.")
    return conf.reshape(n)
