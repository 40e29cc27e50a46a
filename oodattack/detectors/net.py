"""The network that a detector looks into."""

from torch import nn


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
