"""From a classifier to its steps, by `torch.fx`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from oodattack.bounds.affine import Shape, scaling
from oodattack.bounds.call import Call
from oodattack.bounds.calls import step_of
from oodattack.bounds.graph import Graph, Step
from oodattack.bounds.layers import LAYERS, Kind
from oodattack.bounds.no_bounds import NoBounds
from oodattack.classifier import Classifier

ROWS = 2  # of the images that a network is traced with; one more checks the result


def trace(net: Classifier, image: Shape) -> Graph:
    """Steps of a classifier, the normalisation among them.

    Args:
        net: in eval mode and float64.
        image: shape of one row.

    Raises:
        NoBounds: a network that `torch.fx` cannot trace or that has a step without bounds; which one is said.
    """
    from torch.fx.experimental.optimization import fuse

    for name, module in net.network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:  # they compute, and no rule knows what
            raise NoBounds(f"the network must have no hooks to have bounds, got one on {name!r}. Remove it.")
    try:
        traced = fx.symbolic_trace(net.network)
        called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
        if len(set(called)) == len(called):  # else `fuse` would take a shared layer twice
            traced = fuse(net.network)  # type: ignore[assignment]  # norms become parts of convolutions before them
    except Exception as error:  # whatever tracing somebody's network raises
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoBounds(
            f"the network must let `torch.fx` trace it, got {why!r}. Without that it has no bounds."
        ) from error
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(ROWS + 1, *image, generator=draw, dtype=torch.float64).to(net.mean.device)
    recorder = _Recorder(traced)
    with torch.no_grad():
        recorder.run(net.normalised(x[:ROWS]))
        graph = _graph(net, traced, recorder.values, image)
        _check(net, graph, x)
    return graph


class _Recorder(fx.Interpreter):
    """Keeps what every node puts out."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = found = super().run_node(n)
        self.values[n] = found.clone() if isinstance(found, Tensor) else found  # the next may work in place
        return found


def _graph(net: Classifier, traced: fx.GraphModule, values: dict[fx.Node, Any], image: Shape) -> Graph:
    scale = (1 / net.std).expand(1, image[0], 1, 1)
    steps = [Step(scaling(scale, (-net.mean / net.std).expand_as(scale), image), (0,), image)]
    at: dict[fx.Node, int] = {}  # number of the output that a node stands for
    features = logits = None
    for node in traced.graph.nodes:
        inputs = [i for i in node.all_input_nodes if i in at]
        if node.op == "placeholder":
            at[node] = 1
        elif node.op == "output":
            logits = at.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        elif inputs and isinstance(values[node], Tensor):
            if node.op == "call_module" and node.target == net.head:
                features = at[inputs[0]]
            does = _step(traced, node, inputs, values)
            if does is not None:
                steps.append(Step(does, tuple(at[i] for i in inputs), tuple(values[node].shape[1:])))
            at[node] = at[inputs[0]] if does is None else len(steps)
        elif inputs and isinstance(values[node], tuple | list) and any(isinstance(v, Tensor) for v in values[node]):
            with _naming(traced, node):
                raise ValueError("it puts out several tensors")
    if logits is None or features is None:
        raise NoBounds(f"the network must return logits and call its head {net.head!r}, got none. It has no bounds.")
    return Graph(image, tuple(steps), logits, features)


def _step(network: nn.Module, node: fx.Node, inputs: list[fx.Node], values: dict[fx.Node, Any]) -> Kind:
    """One node as a step, or None where its output is its input."""
    shapes = [tuple(values[i].shape[1:]) for i in inputs]
    with _naming(network, node):
        if values[node].ndim < 2 or len(values[node]) != ROWS:
            raise ValueError("it mixes the images of a batch")
        if node.op == "call_module":
            module = network.get_submodule(str(node.target))
            if type(module) not in LAYERS or len(inputs) != 1:
                raise ValueError("no bounds are known for it")
            return LAYERS[type(module)](module, shapes[0])
        own = {i: values[i] for i in node.all_input_nodes if i not in inputs}
        run = node.target if callable(node.target) else getattr(Tensor, str(node.target))
        return step_of(Call(node, run, inputs, shapes, tuple(values[node].shape[1:]), own, values[inputs[0]].device))


@contextmanager
def _naming(network: nn.Module, node: fx.Node) -> Iterator[None]:
    """Say which step has no bounds, and why."""
    try:
        yield
    except ValueError as error:
        if node.op == "call_module":
            where = f"{node.target!r}, {type(network.get_submodule(str(node.target))).__name__}"
        else:
            where = f"{getattr(node.target, '__name__', node.target)} ({node.name})"
        raise NoBounds(
            f"the network must be made of layers with bounds, got {where}: {error}. Take another."
        ) from error


def _check(net: Classifier, graph: Graph, x: Tensor) -> None:
    """Whether the steps compute what the network does."""
    found, seen = graph.points(x), net.run(x)
    for mine, its in ((found[graph.logits], seen.logits), (found[graph.features].flatten(1), seen.features)):
        if mine.shape != its.shape or not torch.allclose(mine, its, rtol=1e-9, atol=1e-9):
            raise NoBounds("the network must do the same when it is traced, got another output. It has no bounds.")
