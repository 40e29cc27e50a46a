"""Grad-CAM without its ReLU: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", arXiv:1610.02391."""

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.default_stages import stages_for
from oodattack.detectors.saliency_relu import BentRelus
from oodattack.detectors.saliency_target import chosen_logit, differentiated


def grad_cam(net: Classifier, x: Tensor, *, layer: str | None = None, beta: float | None = None) -> Tensor:
    """sum_k a_k F^k, a_k = mean over positions of df_c/dF^k; eq. (7) of the SalAgg paper's appendix, unrectified.

    F^k is channel k of a layer's output (N x M) and c the predicted class. For global average pooling and a linear
    head behind the layer a_k = W_ck / (N M), and the mean of the map is (max logit - bias of c) / (N M): Theorem 1.

    Args:
        net: classifier.
        x: shape (B, C, H, W), values in [0, 1].
        layer: name of a module with output (B, K, N, M). Default: the last stage, `net.stages()[-1]`.
        beta: as for `guided_backprop`; matters where ReLUs lie behind the layer.

    Returns:
        Shape (B, N M), unbounded.

    Raises:
        ValueError: no such layer, one without positions, or none given to a network that does not name its stages.

    Differs from the paper: nothing. Differs from Selvaraju et al.: no ReLU, and no resizing to the image.
    """
    call = 'fit_sal_agg(net, id_val, ood_val, options={"layer": ...})'
    name = stages_for(net, call)[-1] if layer is None else layer
    with torch.enable_grad():
        leaf, graph = differentiated(x)
        with BentRelus(guided=False, beta=beta):
            seen = net.run(leaf, watch=[name])
        maps = seen.outputs[name]
        if maps.ndim != 4:
            raise ValueError(f"`layer` must put out (B, K, N, M), got {tuple(maps.shape)} from {name!r}. Name another.")
        top = chosen_logit(seen.logits, seen.logits.detach().argmax(dim=1))
        (slope,) = torch.autograd.grad(top.sum(), maps, create_graph=graph)
        found = (slope.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).flatten(1)
    return found if graph else found.detach()
