"""Which layers a Gram detector watches when it is not told."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.classifier import Classifier
from oodattack.classifier.hooks import removing
from oodattack.classifier.layers import check_plain, stage_names


def gram_layers(net: Classifier, x: Tensor) -> list[str]:
    """Names of the convolutions, activations and stages that one pass calls once, equal outputs named once.

    Differs from the authors' code: they record a fixed set of tensors of two architectures.
    """
    stages, calls = stage_names(net.network), list[tuple[str, Tensor]]()

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append((name, output))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in net.network.named_modules():
            activation = type(module).__module__ == "torch.nn.modules.activation"
            if activation or isinstance(module, nn.modules.conv._ConvNd) or name in stages:
                check_plain(module)
                hooks.enter_context(removing(module.register_forward_hook(note(name))))
        net(x)
    count, kept = Counter(name for name, _ in calls), dict[str, Tensor]()
    for name, output in calls:
        if count[name] == 1 and not any(output is other for other in kept.values()):
            kept[name] = output
    return list(kept)
