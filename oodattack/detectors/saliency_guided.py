"""Guided backpropagation: Springenberg et al., "Striving for Simplicity", ICLR 2015 workshop, arXiv:1412.6806."""

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.saliency_relu import BentRelus
from oodattack.detectors.saliency_target import chosen_logit, differentiated


def guided_backprop(net: Classifier, x: Tensor, *, sum_channels: bool = False, beta: float | None = None) -> Tensor:
    """Gradient of the predicted logit at the normalised image, with R = 1[z > 0] 1[g > 0] g behind every ReLU.

    g is the gradient at the ReLU's output and z its input. All values and signs are kept: no rectification, no
    product with the image. ReLUs may be modules, functions, in place, clamps and thresholds at 0, or maxima with zeros.
    Left as they are, without a word, if the network calls ReLUs besides: tanh and sigmoid, which may be gates, and what
    does not show as one call, such as `where(z > 0, z, 0)`, z * (z > 0) or the maximum of two branches.

    The map of a ReLU network is piecewise constant in x. With `beta` it has the same values, and derivatives in which
    1[z > 0] counts as sigmoid(beta z); its backward pass costs about 7 forward passes.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1].
        sum_channels: one value a pixel, the sum over its channels.
        beta: > 0, in the units of z; None for the plain map.

    Returns:
        Shape (B, C H W), or (B, H W) for a sum; logits per unit of the normalised image, either sign.

    Raises:
        ValueError: a network that calls no ReLU, or GELU, SiLU, LeakyReLU, ReLU6, GLU, a clamp to [0, c] (but those of
            images, c = 1 or 255), other thresholds, ... for which there is no rule.

    Differs from captum, on which the authors' code rests: captum changes `nn.ReLU` modules only and returns plain
    gradients, without a word, where a network calls `relu` as a function.
    """
    with torch.enable_grad():
        leaf, graph = differentiated(x)
        relus = BentRelus(guided=True, beta=beta)
        with relus:
            logits = net.logits(leaf)
        if not relus.seen:
            raise ValueError(
                "guided backpropagation must have ReLUs to guide, got a network that calls none, or hides them in "
                'TorchScript. Take another detector, or in Python method="integrated-gradients".'
            )
        top = chosen_logit(logits, logits.detach().argmax(dim=1))
        (found,) = torch.autograd.grad(top.sum(), leaf, create_graph=graph)
        found = found * net.std  # d/du = std d/dx for u = (x - mean) / std
    return (found.sum(dim=1) if sum_channels else found).flatten(1)
