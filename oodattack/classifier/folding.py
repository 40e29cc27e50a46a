"""A faster copy of a network for the inside of a search: batch norms folded into the convolutions before them."""

import copy
import operator

import torch
from torch import fx, nn

LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SUMS = (operator.add, operator.iadd, torch.add)


def fold(network: nn.Module, *, channels_last: bool = True) -> nn.Module | None:
    """A copy that computes the same function up to rounding, or None where the network cannot be traced.

    In eval mode a batch norm is a fixed affine map of each channel, and an affine map after a convolution is another
    convolution. `torch.fx` finds the pairs. A ReLU overwrites its input where nobody else needs it.
    Networks whose control flow depends on values cannot be traced.

    Args:
        network: in eval mode, from images to logits.
        channels_last: lay the weights out so, which convolutions on a CPU and in reduced precision like better.
    """
    from torch.fx.experimental.optimization import fuse

    if any(module.training for module in network.modules()):
        return None
    try:
        folded = fuse(copy.deepcopy(network)).eval().requires_grad_(False)
        folded = overwrite(folded) if isinstance(folded, fx.GraphModule) else folded
        return folded.to(memory_format=torch.channels_last) if channels_last else folded
    except Exception:  # whatever tracing somebody's network raises; the network itself works
        return None


def reduced(network: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear maps hold the bfloat16 that autocast would make of their weights in every
    pass. Weights that autocast leaves alone, such as float64, stay."""
    lighter = copy.deepcopy(network)
    for module in lighter.modules():
        if isinstance(module, LINEAR) and module.weight.dtype == torch.float32:
            module.to(torch.bfloat16)
    return lighter


def overwrite(traced: fx.GraphModule) -> fx.GraphModule:
    """The same network with every ReLU in place that alone needs its input, where that comes from a convolution, a
    linear map, a batch norm or a sum: their backward pass does not look at what they put out."""
    modules = dict(traced.named_modules())

    def is_relu(node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(modules[str(node.target)]) is nn.ReLU
        return node.op == "call_function" and node.target in (torch.relu, nn.functional.relu)

    def may_go(node: fx.Node) -> bool:
        known = node.op == "call_module" and type(modules[str(node.target)]) in LINEAR + NORMS
        return len(node.users) == 1 and (known or (node.op == "call_function" and node.target in SUMS))

    for node in list(traced.graph.nodes):
        if is_relu(node) and isinstance(node.args[0], fx.Node) and may_go(node.args[0]):
            with traced.graph.inserting_before(node):
                node.replace_all_uses_with(traced.graph.call_function(torch.relu_, (node.args[0],)))
            traced.graph.erase_node(node)
    traced.recompile()
    return traced
