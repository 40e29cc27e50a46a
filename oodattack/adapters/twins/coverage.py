"""NACUE with a gradient: the coverage of a neuron's state, interpolated between the bins of the library."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.adapters.behind import placed
from oodattack.classifier.hooks import removing
from oodattack.detector import Surrogate
from oodattack.detectors.straight_through import with_gradient_of

OUTERMOST = 1e-6  # outermost edge of the library's bins, as a probability


def coverage(stock: Any) -> Surrogate:
    """NACUE: minus the mean over neurons of min(count / O, 1), summed over layers."""
    return Surrogate("own score, with slopes between its bins", Coverage(stock), exact=True)


@dataclass(frozen=True)
class Coverage:
    """The score itself, a step function of u = alpha z dKL/dz, with the slope of what interpolates between its steps.

    Following the steps and not what interpolates them is a little stronger: the best point is the library's best.
    """

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        stock, x = self.stock, placed(self.stock, x)
        follow = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad(), outputs_of(stock.layers) as outputs:
            p = stock.model(x if follow else x.detach().clone().requires_grad_()).softmax(dim=1)
            loss = -(p + 1e-12).log().mean(dim=1).sum()
            grads = torch.autograd.grad(loss, outputs, create_graph=follow)
            parts = zip(outputs, grads, stock.alpha, stock._stats, strict=True)
            covered = [self._covered(alpha * stock.feature_reduce(z * grad), stats) for z, grad, alpha, stats in parts]
        return -torch.stack(covered).sum(dim=0)

    def _covered(self, u: Tensor, stats: Any) -> Tensor:
        """Mean coverage of the neurons of one layer, shape (B,), from u of shape (B, N)."""
        into_bins = import_module(type(self.stock).__module__)._bin_indices_geometric
        share = (stats.counts.to(u.device, u.dtype) / stats.o_star).clamp(max=1)  # (N, M)
        steps: Tensor = share.T.gather(0, into_bins(u.detach().sigmoid(), m=stats.m))
        slopes = interpolated(u, centres(stats.m).to(u), share)
        return with_gradient_of(steps, slopes).mean(dim=1)


def centres(bins: int) -> Tensor:
    """Centres of the bins on the scale of logits, ascending; the bins are geometric towards probabilities 0 and 1.

    Of an odd number of bins the library leaves the last one empty; it has no centre here.
    """
    left = torch.logspace(math.log10(OUTERMOST), math.log10(0.5), steps=bins // 2 + 1, dtype=torch.float64)
    edges = torch.cat([left, (1 - left).flip(0)[1:]]).logit()
    return (edges[1:] + edges[:-1]) / 2


def interpolated(u: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear through (at, values), constant beyond the ends.

    Args:
        u: shape (B, N).
        at: ascending, shape (M,).
        values: of each neuron, shape (N, M) or wider; the first M are taken.

    Returns:
        Shape (B, N).
    """
    i = torch.bucketize(u.detach().contiguous(), at).clamp(1, len(at) - 1)
    share = ((u - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
    low, high = (values.expand(len(u), -1, -1).gather(2, j[:, :, None]).squeeze(2) for j in (i - 1, i))
    return low + share * (high - low)


@contextmanager
def outputs_of(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Outputs of layers in the order in which they are called, of the one pass made within."""
    found: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(removing(layer.register_forward_hook(lambda _m, _a, out: found.append(out))))
        yield found
