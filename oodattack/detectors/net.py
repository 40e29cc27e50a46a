"""The network that a detector looks into."""

from torch import Tensor, nn

from oodattack.classifier import Classifier


class OnNetwork(nn.Module):
    """What all detectors on a network do with it: refuse a bare one, keep it, and be in its mode (train or eval).

    Args:
        net: a `Classifier`, or what has its methods.
        needed: those that the detector calls.

    Raises:
        TypeError: as `check_net`.
    """

    def __init__(self, net: Classifier, *needed: str) -> None:
        check_net(net, *needed)
        super().__init__()
        self.net = net
        self.training = net.training  # not `train()`: submodules of the network may differ


class OnLogits(OnNetwork):
    """A detector whose score is a function of the logits alone, which are its latent.

    Attacks that follow the logits in another way than the score does know the score from the same pass.

    Args:
        net: classifier.
    """

    of_logits = True

    def __init__(self, net: Classifier) -> None:
        super().__init__(net, "logits")
        self.latent = net.logits

    def from_logits(self, logits: Tensor) -> Tensor:
        """OOD scores, shape (B,), of logits (B, K)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return self.from_logits(self.net.logits(x))

    @property
    def is_unaltered(self) -> bool:
        """Whether nothing has been put in place of `forward` or behind it, by a subclass or a hook."""
        plain = type(self).forward is OnLogits.forward and "forward" not in vars(self)
        return plain and not (self._forward_hooks or self._forward_pre_hooks)


def check_net(net: object, *needed: str) -> None:
    """Raise TypeError unless a network has the methods that a detector calls, as a `Classifier` does.

    Args:
        net: what was given as one.
        needed: their names. A module of that name is none, such as the `features` of a VGG.
    """
    found = [getattr(net, name, None) for name in needed]
    if not all(callable(method) and not isinstance(method, nn.Module) for method in found):
        raise TypeError(
            f"`net` must be an oodattack.Classifier, got {type(net).__name__}. "
            "Wrap it: oa.Classifier(network, mean=..., std=...)."
        )
