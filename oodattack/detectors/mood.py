"""MOOD: Lin, Roy & Li, "MOOD: Multi-level Out-of-distribution Detection", CVPR 2021, arXiv:2104.14726."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.batches import BATCH_SIZE, Images, batches
from oodattack.detectors.energy import energy
from oodattack.detectors.net import OnNetwork, check_net
from oodattack.detectors.png_length import png_bits

MOST_BITS = 8 * 2700 / 3072  # per dimension: the authors divide 0..2700 bytes of a CIFAR image among the exits


class MOOD(OnNetwork):
    """Energy of the exit that the image's complexity chooses, minus the mean energy of ID images there: E_i(x) - m_i.

    The exit i is the number of edges below L, the bits per dimension of the PNG file: complex images go deeper. See
    `fit_mood`.

    The choice has no gradient, the energy of the chosen exit has; an attack asks for the exit anew at every step. That
    did as well as any smoothed choice: a gradient through `residual_bits` or the mean over all exits reached less.

    Args:
        net: classifier whose network has a method `exits` from normalised images to a list of logits, each (B, K).
        means: m, shape (exits,).
        edges: in bits per dimension, ascending, one fewer than exits.

    Raises:
        ValueError: a network without exits, or edges that do not fit.

    Differs from the paper: higher means more OOD; all exits are computed, so that no time is saved. Differs from the
    authors' code: Pillow writes the file instead of OpenCV, which filters lines in another way; no image is too long
    for the last exit.
    """

    name = "mood"
    means: Tensor

    def __init__(self, net: Classifier, means: Tensor, *, edges: Sequence[float]) -> None:
        super().__init__(net, "normalised")
        check_exits(net)
        if len(edges) != len(means) - 1 or list(edges) != sorted(edges):
            raise ValueError(
                f"`edges` must be {len(means) - 1} ascending numbers, one fewer than exits, got {edges}. "
                "Leave them out for equal steps."
            )
        self.edges = tuple(edges)
        self.register_buffer("means", means)

    def chosen(self, x: Tensor) -> Tensor:
        """The exit of each image, 0..exits - 1, shape (B,)."""
        return (png_bits(x)[:, None] > x.new_tensor(self.edges)).sum(dim=1)

    def latent(self, x: Tensor) -> Tensor:
        """Logits of the chosen exit plus its m_i, shape (B, K); their energy is the score."""
        exit_ = self.chosen(x)
        logits = all_exits(self.net, x)
        if len(logits) != len(self.means):
            raise ValueError(
                f"`net` must have {len(self.means)} exits as `means` has, got {len(logits)}. "
                "Take the network that they were measured with."
            )
        rows = torch.arange(len(x), device=x.device)
        return logits[exit_, rows] + self.means.to(x)[exit_, None]

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return energy(self.latent(x))


def check_exits(net: Classifier) -> None:
    """Raise ValueError for a network without a method `exits`."""
    if not callable(getattr(net.network, "exits", None)):
        kind = type(net.network).__name__
        raise ValueError(f"`net` must have a network with a method `exits`, got {kind}. Take `models.exits.ExitNet`.")


def all_exits(net: Classifier, x: Tensor) -> Tensor:
    """Logits of all exits, shape (exits, B, K), of images in [0, 1].

    Raises:
        ValueError: images of other channels than `mean`.
    """
    return torch.stack(net.network.exits(net.normalised(x)))  # type: ignore[operator]


def fit_mood(net: Classifier, x: Images, *, edges: Sequence[float] | None = None, batch_size: int = BATCH_SIZE) -> MOOD:
    """Mean energy of every exit over all ID images, whichever exit they would choose.

    Args:
        net: see `MOOD`.
        x: ID images in [0, 1], (N, C, H, W), or batches of them, see `batches`; labels are ignored.
        edges: in bits per dimension. Default: equal steps up to `MOST_BITS`, which is i * 2700 / 5 bytes for five exits
            and 32x32 RGB images, as in the authors' code.
        batch_size: images per forward pass, where x is a tensor.

    Raises:
        ValueError: no images, or as `MOOD`.

    Differs from the authors' code: the means are of images to fit on, not of the ID test images.
    """
    check_net(net, "normalised")
    check_exits(net)
    total, count = torch.zeros(()), 0
    with torch.no_grad():
        for rows, _ in batches(x, net=net, batch_size=batch_size):
            logits = all_exits(net, rows)
            total = total.to(logits.device) - logits.logsumexp(dim=2).double().sum(dim=1)
            count += len(rows)
    means = (total / count).to(logits.dtype)
    steps = [MOST_BITS * i / len(means) for i in range(1, len(means))] if edges is None else edges
    return MOOD(net, means, edges=steps)
