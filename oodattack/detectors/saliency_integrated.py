"""Integrated gradients: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks", ICML 2017,
arXiv:1703.01365."""

from functools import partial

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.saliency_recompute import recomputed
from oodattack.detectors.saliency_relu import BentRelus
from oodattack.detectors.saliency_target import blocks, chosen_logit, predicted


def integrated_gradients(net: Classifier, x: Tensor, *, steps: int = 50, beta: float | None = None) -> Tensor:
    """u * integral over a in [0, 1] of df_c/du at a u, for the normalised image u and the predicted class c.

    The baseline is 0 in normalised units, the mean image; the integral is a Gauss-Legendre sum. The values of a row sum
    to f_c(u) - f_c(0) up to the error of the sum.

    A value costs `steps` forward and backward passes. Differentiated, `steps` times 4 more, block by block: memory is
    that of one block of images.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1].
        steps: nodes of the sum, >= 1.
        beta: as for `guided_backprop`: without it the inner gradient of a ReLU network counts as a constant.

    Returns:
        Shape (B, C H W), in logits, either sign.

    Raises:
        ValueError: `steps` below 1.

    Differs from the paper: nothing. The authors' code takes captum's defaults, which these are.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be >= 1, got {steps}. The authors take 50.")
    label, (nodes, weights) = predicted(net, x), gauss_legendre(steps, x)

    def part(block: slice, z: Tensor) -> Tensor:
        at, weight = nodes[block].view(-1, 1, 1, 1, 1), weights[block].view(-1, 1)
        graph = z.requires_grad
        with torch.enable_grad():
            off = z - net.mean
            path = net.mean + at * off  # (nodes, B, C, H, W)
            path = path if graph else path.detach().requires_grad_()
            with BentRelus(guided=False, beta=beta):
                logits = net.logits(path.flatten(0, 1))
            top = chosen_logit(logits, label.repeat(len(at))).view(len(at), -1)
            (slope,) = torch.autograd.grad((weight * top).sum(), path, create_graph=graph)
            found = (off * slope.sum(dim=0)).flatten(1)  # std cancels: u du = x - mean
        return found if graph else found.detach()

    parts = [recomputed(partial(part, block), x) for block in blocks(steps, len(x))]
    return torch.stack(parts).sum(dim=0)


def gauss_legendre(steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the sum over [0, 1], shapes (steps,); exact for polynomials up to degree 2 steps - 1."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((nodes + 1) / 2).to(like), torch.from_numpy(weights / 2).to(like)
