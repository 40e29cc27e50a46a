"""GAIA-A, channel-wise average abnormality: Chen et al., "GAIA: Delving into Gradient-based Attribution Abnormality for
Out-of-distribution Detection", NeurIPS 2023, arXiv:2311.09620."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodattack.classifier import Classifier, Pass
from oodattack.detector import Surrogate
from oodattack.detectors.layer_gradients import (
    SignPath,
    check_layers,
    gradients,
    log_softmax_sum,
    norms,
    path_sums,
    per_channel,
    predicted_loss,
    sign_steps,
)
from oodattack.detectors.linear_head import head_of
from oodattack.detectors.net import OnNetwork
from oodattack.detectors.smooth_relu import SmoothRelu


def channel_averages(net: Classifier, layers: Sequence[str], found: Sequence[Tensor]) -> Tensor:
    """|mean over positions| of each layer's gradient, concatenated: shape (B, channels)."""
    pairs = zip(found, norms(net, layers), strict=True)
    return torch.cat([per_channel(g, norm).mean(2).abs() for g, norm in pairs], dim=1)


def output_scale(g: Tensor) -> Tensor:
    """omega = sqrt(mean_k |g_k|) of the gradient g (B, D) at the penultimate features, shape (B, 1)."""
    return g.abs().mean(dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny).sqrt()


def kept_features(net: Classifier, keep: float) -> Tensor:
    """Mask (D,) of the int(keep * D), at least one, features with the largest summed head weight sum_c W_ck.

    Raises:
        ValueError: a head that is not linear.
    """
    weight = head_of(net).weight.sum(dim=0)
    mask = torch.zeros_like(weight)
    mask[weight.topk(max(1, int(keep * len(weight)))).indices] = 1
    return mask.detach()


@dataclass(frozen=True)
class SmoothAverages:
    """GAIA-A's channel averages and score with sigmoid(beta z) in place of the ReLUs' derivative; differentiable.

    Piecewise linear relatives of the ReLU are smoothed like it, see `SmoothRelu`. GELU, SiLU, ELU, Tanh and Sigmoid
    stay as they are and autograd differentiates them twice: on a network of these, only T is approximated (by 1).

    Attributes:
        net: classifier.
        layers: names of norm layers.
        keep: share of penultimate features in the inner gradient.
        beta: steepness of the smoothed derivative.
        weight: eta of the step that gradients are multiplied by, see `SignPath.delta_weighted`; its sign is a constant
            to whoever differentiates. 0 for none.
    """

    net: Classifier
    layers: tuple[str, ...]
    keep: float
    beta: float = 20.0
    weight: float = 0.0

    def latent(self, x: Tensor) -> Tensor:
        """inner / omega, shape (B, channels)."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad(), SmoothRelu(self.beta):
            seen = self.net.run(x if x.requires_grad else x.detach().requires_grad_(), watch=self.layers)
            at = [seen.outputs[name] for name in self.layers]
            (outer,) = gradients(log_softmax_sum(seen), [seen.features], create_graph=graph)
            inner = gradients(seen.features * kept_features(self.net, self.keep), at, create_graph=graph)
            if self.weight:
                loss = predicted_loss(seen.logits.argmax(dim=1).detach())(seen)
                steps = [self.weight * up.sign() for up in gradients(loss, [seen.features, *at])]
                outer, inner = steps[0] * outer, tuple(step * g for step, g in zip(steps[1:], inner, strict=True))
            return channel_averages(self.net, self.layers, inner) / output_scale(outer)

    def __call__(self, x: Tensor) -> Tensor:
        """Smoothed scores, shape (B,), >= 0."""
        return self.latent(x).square().mean(dim=1)


class GaiaA(OnNetwork):
    """mean over channels of (inner / omega)^2.

    inner = |mean over positions of d(sum of penultimate features)/d(norm output)|, omega = sqrt(mean |d(sum of
    log-softmax over all classes)/d(penultimate features)|), one number a row.

    Args:
        net: classifier with norm layers and a linear head, or one of 1 x 1 convolutions.
        layers: names of norm layers. Default: those of the last two stages, see `Classifier.late_norm_layers`.

    Differs from the paper: follows the authors' code; omega is taken at the pooled features, which for a network with
    global average pooling is theirs times a constant. Differs from the authors' code: theirs takes layer3 and layer4 of
    a ResNet as we do, but all norms of a WRN and those of block4 alone of a BiT: name these with `layers`.
    """

    name = "gaia-a"
    path = SignPath()
    keep = 1.0

    def __init__(self, net: Classifier, *, layers: Sequence[str] | None = None) -> None:
        super().__init__(net, "run")
        self.layers = tuple(check_layers(net, layers, net.late_norm_layers))
        kept_features(net, 1.0)  # a head that is not linear is refused now, not at the first image
        self._use_surrogate()

    def _use_surrogate(self) -> None:
        weight = self.path.step_size if self.path.delta_weighted else 0.0
        smooth = SmoothAverages(self.net, self.layers, self.keep, weight=weight)
        name = f"smoothed ReLU derivative, beta = {smooth.beta:g}" + (", T = 1" if self.path.steps > 1 else "")
        self.surrogate = Surrogate(name, smooth, smooth.latent)

    def latent(self, x: Tensor) -> Tensor:
        """inner / omega for all channels of all layers: shape (B, channels), >= 0. No useful gradient."""
        kept = kept_features(self.net, self.keep).to(x.dtype)

        def inner(seen: Pass) -> Tensor:
            return (seen.features * kept).sum(dim=1)

        def from_features(z: Tensor) -> Pass:
            return self.net.run(x.detach(), head_input=z)

        seen, found = sign_steps(self.net, x, self.layers, inner, self.path)
        (outer,) = path_sums(seen, [seen.features], [from_features], log_softmax_sum, self.path)
        return channel_averages(self.net, self.layers, found) / output_scale(outer)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0. No useful gradient: use the surrogate."""
        return self.latent(x).square().mean(dim=1)
