"""Names of the layers that detectors look at: head, norms, stages."""

import re

import torch
from torch import nn

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
STAGE = re.compile(r"(layer|stage|block|denseblock)_?\d+")
NUMBERED = re.compile(r"(\w+\.)?((stages|blocks)\.|s)\d+")  # timm's
STEMS = ("stem", "relu", "act1", "bn1", "conv1")


class NoStages(ValueError):
    """A network that does not name its stages."""


def check_plain(network: nn.Module) -> None:
    """Raise ValueError if a network, or a part of it, is TorchScript, whose layers take no hooks."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise ValueError(
            "the network must be a plain nn.Module to look inside, got a TorchScript one. "
            "Give the module it was made of, or your score as a function."
        )


def last_linear(network: nn.Module) -> str:
    """Name of the last `nn.Linear` in module order, the usual classification head."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        check_plain(network)
        raise ValueError("the network must have an `nn.Linear` head, got none. Name the last layer with `head=...`.")
    return names[-1]


def norm_layers(network: nn.Module) -> list[str]:
    """Names of all normalisation layers, in module order.

    Of a norm with an activation in it (timm's `BatchNormAct2d`, `GroupNormAct`, ...) the child in front of that,
    `NAME.drop`, which puts out what the norm alone does.

    Raises:
        ValueError: there is none.
    """
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, NORM_LAYERS)]
    names = [f"{n}.drop" if hasattr(norm, "drop") and hasattr(norm, "act") else n for n, norm in norms]
    if not names:
        check_plain(network)
        raise ValueError(
            "the network must have normalisation layers for this detector, got none. Take another detector."
        )
    return names


def late_norm_layers(network: nn.Module) -> list[str]:
    """Norm layers of the last two stages (ResNet: layer3 and layer4); without stages, the second half of them."""
    names = norm_layers(network)
    last = tuple(f"{stage}." for stage in stage_names(network)[-2:])
    return [n for n in names if n.startswith(last)] if last else names[len(names) // 2 :]


def stages(network: nn.Module) -> list[str]:
    """Names of the modules after which the resolution changes: stem, then layer1, layer2, ... or like-named ones.

    Where no module is named so, the outermost of stages.0, stages.1, ..., blocks.0, blocks.1, ... or s1, s2, ... that
    hold convolutions, as in timm's ConvNeXt, EfficientNet, BiT and RegNet; not those of a ViT, whose channels come
    last.

    Raises:
        NoStages: the network does not name its stages that way; a ValueError.
    """
    names = stage_names(network) or numbered_stages(network)
    if not names:
        check_plain(network)
        raise NoStages(
            "the network has no modules named like `layer1`. Give `layers` explicitly, or take another detector."
        )
    modules = dict(network.named_modules())
    stem = next((name for name in STEMS if name in modules), None)
    return [*([stem] if stem else []), *names]


def stage_names(network: nn.Module) -> list[str]:
    """Names of the modules that are named like stages: layer1, layer2, ..., or block1, block2, ...; maybe none."""
    names = [n for n, _ in network.named_modules() if STAGE.fullmatch(n.split(".")[-1]) and n.count(".") <= 1]
    return [n for n in names if n.split(".")[0] not in names or "." not in n]  # a block inside a stage is none


def numbered_stages(network: nn.Module) -> list[str]:
    """The outermost modules that are named like timm's stages and hold convolutions; maybe none."""
    modules = dict(network.named_modules())
    names = [name for name in modules if NUMBERED.fullmatch(name)]
    outermost = [n for n in names if n.count(".") == min(name.count(".") for name in names)]
    return [n for n in outermost if any(isinstance(m, nn.Conv2d) for m in modules[n].modules())]
