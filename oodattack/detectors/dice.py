"""DICE: Sun & Li, "DICE: Leveraging Sparsification for Out-of-Distribution Detection", ECCV 2022, arXiv:2111.09805."""

from torch import Tensor
from torch.nn.functional import linear

from oodattack.classifier import Classifier
from oodattack.detectors.batches import BATCH_SIZE, Images
from oodattack.detectors.energy import energy
from oodattack.detectors.linear_head import head_of, mean_features, percentile
from oodattack.detectors.net import OnNetwork


class DICE(OnNetwork):
    """Free energy of the logits of a sparse head: E((M * W) h + b), * entry by entry. See `fit_dice`.

    The mask is the same for every input, so the score has the gradient that it should have.

    Args:
        net: classifier whose logits are those of an `nn.Linear` head.
        mask: M, shape (K, D), True where a weight is kept.

    Raises:
        ValueError: a mask of another shape than the head's weight, or one that keeps nothing.

    Differs from the paper: higher means more OOD.
    """

    name = "dice"
    mask: Tensor

    def __init__(self, net: Classifier, mask: Tensor) -> None:
        super().__init__(net, "features")
        wanted = tuple(head_of(net).weight.shape)
        if tuple(mask.shape) != wanted:
            raise ValueError(
                f"`mask` must have the shape {wanted} of the head's weight, got {tuple(mask.shape)}. "
                "`fit_dice` makes one."
            )
        if not mask.any():
            raise ValueError("`mask` must keep a weight, got none. Lower the percentile.")
        self.register_buffer("mask", mask.bool())

    def latent(self, x: Tensor) -> Tensor:
        """Logits of the sparse head, shape (B, K)."""
        h = self.net.features(x)
        head = head_of(self.net).to(h.dtype)
        return linear(h, head.weight * self.mask, head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return energy(self.latent(x))


def fit_dice(net: Classifier, x: Images, *, percentile_dropped: float = 90.0, batch_size: int = BATCH_SIZE) -> DICE:
    """Keep the weights whose contribution V = W * mean(h) on ID images is above a percentile of all entries of V.

    Args:
        net: classifier.
        x: ID training images in [0, 1], shape (N, C, H, W), or see `batches`.
        percentile_dropped: p, in [0, 100): the share of weights, in per cent, that are set to 0.
        batch_size: images per forward pass.

    Raises:
        ValueError: no images, a percentile out of range, or contributions that are all the same.
    """
    if not 0 <= percentile_dropped < 100:
        raise ValueError(f"`percentile_dropped` must be in [0, 100), got {percentile_dropped}. The paper takes 90.")
    contribution = head_of(net).weight.detach().double() * mean_features(net, x, batch_size)
    return DICE(net, contribution > percentile(contribution, percentile_dropped))
