"""LINe: Ahn, Park & Kim, "LINe: Out-of-Distribution Detection by Leveraging Important Neurons", CVPR 2023,
arXiv:2303.13995."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images, labelled
from oodattack.detectors.energy import energy
from oodattack.detectors.linear_head import features_of, head_logits, head_of, percentile
from oodattack.detectors.net import OnNetwork
from oodattack.detectors.react import SLOPE, clipped
from oodattack.detectors.straight_through import with_gradient_of


class LINe(OnNetwork):
    """Free energy of a head pruned for the predicted class: sum over d of W_kd m_d M_kd min(h_d, c), plus b_k.

    With y the largest logit of the clipped features and s_y the contributions of its neurons:
    m = 1 where s_y is above `neuron_edges[y]`, M = 1 where |s_y| * W is above `weight_edges[y]`. See `fit_line`.

    The masks are constants between the borders of classes, so that few features have a gradient, or none. The
    surrogate has the same values, and adds `SLOPE` times the gradient of the energy of the whole head; above the clip
    the derivative is `SLOPE` instead of 0. As features end at the clip, the score of each class has a lowest value, and
    no gradient leads from one class to another that goes lower: `class_scores` is each class's own pruned logit.

    Args:
        net: classifier whose logits are those of an `nn.Linear` head.
        contributions: s, shape (K, D).
        neuron_edges: shape (K,).
        weight_edges: shape (K,).
        clip: c, the largest value that a feature may keep.

    Differs from the paper: higher means more OOD.
    """

    name = "line"
    contributions: Tensor
    neuron_edges: Tensor
    weight_edges: Tensor

    def __init__(
        self, net: Classifier, contributions: Tensor, neuron_edges: Tensor, weight_edges: Tensor, *, clip: float
    ) -> None:
        super().__init__(net, "features")
        wanted = tuple(head_of(net).weight.shape)
        if tuple(contributions.shape) != wanted:
            found = tuple(contributions.shape)
            raise ValueError(
                f"`contributions` must have the shape {wanted} of the head's weight, got {found}. "
                "`fit_line` makes them."
            )
        self.clip = clip
        self.register_buffer("contributions", contributions)
        self.register_buffer("neuron_edges", neuron_edges)
        self.register_buffer("weight_edges", weight_edges)
        self.surrogate = Surrogate(
            f"score with {SLOPE:g} of the gradient of the whole head", self.soft, self.soft_latent, exact=True
        )

    def pruned_logits(self, h: Tensor, y: Tensor) -> Tensor:
        """Logits, shape (B, K), of features h (B, D) with the masks of classes y (B,)."""
        head = head_of(self.net)
        s = self.contributions[y]  # (B, D)
        kept = s > self.neuron_edges[y, None]
        strong = s.abs()[:, None] * head.weight.detach() > self.weight_edges[y, None, None]  # (B, K, D)
        head = head.to(h.dtype)
        logits = torch.einsum("bkd,bd->bk", head.weight * strong, h * kept)
        return logits if head.bias is None else logits + head.bias

    def latent(self, x: Tensor) -> Tensor:
        """Logits of the pruned head, shape (B, K)."""
        h = clipped(self.net.features(x), self.clip)
        return self.pruned_logits(h, head_logits(self.net, h).argmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return energy(self.latent(x))

    def soft_latent(self, x: Tensor) -> Tensor:
        """`latent` with a share of the gradient of the whole head, shape (B, K)."""
        h = clipped(self.net.features(x), self.clip, slope=SLOPE)
        whole = head_logits(self.net, h)
        return with_gradient_of(self.pruned_logits(h, whole.argmax(dim=1)), SLOPE * whole)

    def class_scores(self, x: Tensor) -> Tensor:
        """The logit of each class with the masks of that class, shape (B, K); above the clip with a derivative."""
        head, s = head_of(self.net), self.contributions
        weight = head.weight.detach()
        kept = (s > self.neuron_edges[:, None]) & (s.abs() * weight > self.weight_edges[:, None])
        h = clipped(self.net.features(x), self.clip, slope=SLOPE)
        return linear(h, (weight * kept).to(h), None if head.bias is None else head.bias.to(h))

    def soft(self, x: Tensor) -> Tensor:
        """The scores, shape (B,), with a share of the gradient of the whole head."""
        return energy(self.soft_latent(x))


def fit_line(
    net: Classifier,
    x: Images,
    y: Tensor | None = None,
    *,
    neuron_percentile: float = 90.0,
    weight_percentile: float = 90.0,
    clip: float = 1.0,
    batch_size: int = BATCH_SIZE,
) -> LINe:
    """Contributions of neurons to their class, and what to prune, from training images in [0, 1].

    First-order Taylor estimate of a Shapley value: s_kd = mean over images of class k of h_d df_k / dh_d, which for a
    linear head is W_kd mean(h_d).

    Args:
        net: classifier.
        x: training images, shape (N, C, H, W), or what yields batches of (images, labels); see `batches`.
        y: true labels, shape (N,), of a tensor `x`; every class 0..K-1 must occur.
        neuron_percentile: p_a, in [0, 100): share of neurons, in per cent, that every class drops.
        weight_percentile: p_w, in [0, 100): share of weights, in per cent, that every class drops.
        clip: see `LINe`; the authors' 1.0 for CIFAR and 0.8 for ImageNet belong to features of that scale.
        batch_size: images per forward pass.

    Raises:
        ValueError: percentiles out of range, labels that do not fit, or a class without images.
    """
    for name, value in (("neuron_percentile", neuron_percentile), ("weight_percentile", weight_percentile)):
        if not 0 <= value < 100:
            raise ValueError(f"`{name}` must be in [0, 100), got {value}. The paper takes 90 for CIFAR-10.")
    with torch.no_grad():
        weight = head_of(net).weight.detach()
        s = weight * class_means(net, x, y, batch_size).to(weight)
    neurons = [percentile(row, neuron_percentile) for row in s]
    weights = [percentile(row.abs() * weight, weight_percentile) for row in s]
    return LINe(net, s, s.new_tensor(neurons), s.new_tensor(weights), clip=clip)


def class_means(net: Classifier, x: Images, y: Tensor | None, batch_size: int) -> Tensor:
    """Mean features of every class of the head, shape (K, D), float64, summed batch by batch.

    Raises:
        ValueError: labels that are not one an image or not of the head's classes, or a class without images.
    """
    weight = head_of(net).weight
    total, classes = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device), len(weight)
    rows = torch.zeros(classes, dtype=torch.float64, device=weight.device)
    for i, (images, labels) in enumerate(labelled(x, y, net=net, batch_size=batch_size)):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            found = f"{int(labels.min())}..{int(labels.max())}"
            raise ValueError(
                f"`y` must be classes 0..{classes - 1} of the head, got {found}. Number the classes as the head does."
            )
        total.index_add_(0, labels, features_of(net, images, check=not i).double())
        rows += labels.bincount(minlength=classes)
    if not rows.all():
        raise ValueError(
            f"every class must have images to fit on, got none of class {int(rows.argmin())}. Pass images of each."
        )
    return total / rows[:, None]
