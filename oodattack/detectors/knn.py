"""Distance to the k-th nearest neighbour: Sun, Ming, Zhu & Li, "Out-of-Distribution Detection with Deep Nearest
Neighbors", ICML 2022, arXiv:2204.06507."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images, over_batches
from oodattack.detectors.net import OnNetwork, check_net
from oodattack.detectors.straight_through import with_gradient_of

CHUNK = 16384  # rows of the bank compared at once: B times as many similarities are held


def neighbours(z: Tensor, bank: Tensor, k: int) -> Tensor:
    """Rows of the bank that hold the k nearest neighbours of each z, the nearest first, shape (B, k). Ties are broken
    arbitrarily.

    The largest inner products of unit vectors are the smallest distances. The bank is gone through in chunks.

    Args:
        z: unit vectors, shape (B, D).
        bank: unit vectors, shape (N, D).
        k: in 1..N.
    """
    with torch.no_grad():
        best, rows = z.new_empty(len(z), 0), torch.empty(len(z), 0, dtype=torch.long, device=z.device)
        for start in range(0, len(bank), CHUNK):
            near = torch.cat([best, z @ bank[start : start + CHUNK].T], dim=1)
            new = torch.arange(start, start + near.shape[1] - best.shape[1], device=z.device).expand(len(z), -1)
            best, places = near.topk(min(k, near.shape[1]), dim=1)
            rows = torch.cat([rows, new], dim=1).gather(1, places)
    return rows


def knn(z: Tensor, bank: Tensor, k: int) -> Tensor:
    """||z - z_(k)||^2, where z_(k) is the k-th nearest row of the bank.

    The neighbour is found by inner products, whose rounding is of the order of a small distance; the distance itself is
    the sum of squared differences. Its derivative holds the neighbour fixed.

    Args:
        z: unit vectors, shape (B, D).
        bank: unit vectors, shape (N, D).
        k: in 1..N.

    Returns:
        OOD scores, shape (B,), in [0, 4].
    """
    bank = bank.to(z)
    return (z - bank[neighbours(z, bank, k)[:, -1]]).square().sum(dim=1)


def knn_by_mean(z: Tensor, bank: Tensor, k: int) -> Tensor:
    """The value of `knn` with the derivative of the mean distance to the k nearest rows, 2 (z - their mean).

    The k-th neighbour changes every few steps of a search and takes the gradient along; the mean of k of them hardly
    turns. Arguments and result as for `knn`.
    """
    bank = bank.to(z)
    near = neighbours(z, bank, k)
    value = (z - bank[near[:, -1]]).square().sum(dim=1).detach()
    return with_gradient_of(value, (z - embedding_bag(near, bank, mode="mean")).square().sum(dim=1))


class KNN(OnNetwork):
    """Squared distance of the normalised penultimate features to the k-th nearest training image; see `fit_knn`.

    Args:
        net: classifier.
        bank: normalised features of training images, shape (N, D).
        k: which neighbour, in 1..N.
        classes: what the network takes each image of the bank for, shape (N,), >= 0; None where that is not known.

    The surrogate has the score's value and the derivative of the mean distance to the k nearest. `class_scores` is
    minus the same within each class of the bank, so that a search can make for one class after another.

    Raises:
        ValueError: a bank that is no matrix of unit vectors, classes that are not one a row, or k out of range.

    Differs from the paper: its distance is not squared (the same order) and ID high. Squares have a bounded derivative
    where a distance is zero. Differs from the authors' code: exact search in torch instead of faiss.
    """

    name = "knn"
    bank: Tensor
    classes: Tensor | None

    def __init__(self, net: Classifier, bank: Tensor, *, k: int, classes: Tensor | None = None) -> None:
        super().__init__(net, "features")
        lengths = bank.norm(dim=1) if bank.ndim == 2 else bank.new_empty(0)
        if not len(lengths) or not ((lengths - 1).abs() < 1e-3).all():
            long = f", {lengths.min():.3g} to {lengths.max():.3g} long" if len(lengths) else ""
            found = f"{tuple(bank.shape)}{long}"
            raise ValueError(f"`bank` must hold rows of length 1, got {found}. Normalise it, or use `fit_knn`.")
        if not 1 <= k <= len(bank):
            raise ValueError(f"`k` must be in 1..{len(bank)}, the rows of the bank, got {k}. Lower it, or add images.")
        if classes is not None and classes.shape != bank.shape[:1]:
            raise ValueError(
                f"`classes` must be one a row of the bank, shape ({len(bank)},), got {tuple(classes.shape)}. "
                "Take the predictions for its images."
            )
        self.k = k
        self.register_buffer("bank", bank)
        self.register_buffer("classes", classes, persistent=False)  # what was saved without goes on working
        if k > 1:
            self.surrogate = Surrogate(f"own score, sloped by the mean of the {k} nearest", self.by_mean, exact=True)
        if classes is not None:
            self.class_scores = self._class_scores

    def latent(self, x: Tensor) -> Tensor:
        """Normalised features, shape (B, D): unit vectors, whose distances bound those of the scores' square roots."""
        return normalize(self.net.features(x), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), in [0, 4]."""
        return knn(self.latent(x), self.bank, self.k)

    def by_mean(self, x: Tensor) -> Tensor:
        """The surrogate, shape (B,), in [0, 4]; see `knn_by_mean`."""
        return knn_by_mean(self.latent(x), self.bank, self.k)

    def _class_scores(self, x: Tensor) -> Tensor:
        """Minus the distance to the k-th nearest row of each class that the bank has, shape (B, K)."""
        assert self.classes is not None
        z, parts = self.latent(x), [self.bank[self.classes == c] for c in self.classes.unique()]
        return -torch.stack([knn_by_mean(z, part, min(self.k, len(part))) for part in parts], dim=1)


def fit_knn(
    net: Classifier,
    x: Images,
    *,
    k: int | None = None,
    share: float = 1.0,
    seed: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> KNN:
    """Keep the normalised features of ID training images.

    Features that are all zero have no direction and are left out.

    Args:
        net: classifier.
        x: images (N, C, H, W) in [0, 1], or batches of them; see `batches`.
        k: which neighbour. Default: 50, the paper's for CIFAR-10, or a tenth of a bank of fewer than 500 rows.
        share: of the images to keep, in (0, 1], drawn without replacement; the paper's alpha.
        seed: of that draw; needed for a share below 1.
        batch_size: images per forward pass.

    Raises:
        ValueError: no images, a share out of range or without a seed, or more neighbours than rows.

    Differs from the paper: the default k of small banks is ours.
    """
    check_net(net, "features", "run")
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1], got {share}. Give a share, not per cent.")
    if share < 1 and seed is None:
        raise ValueError(f"`seed` must be given to draw a share of {share}, got None. Choose a number.")

    def seen(rows: Tensor) -> Tensor:  # direction and predicted class, of one pass
        found = net.run(rows)
        predicted = found.logits.argmax(dim=1, keepdim=True).to(torch.promote_types(rows.dtype, torch.float32))
        return torch.cat([normalize(found.features, dim=1), predicted], dim=1)

    kept = over_batches(seen, x, net=net, batch_size=batch_size)
    kept = kept[kept[:, :-1].norm(dim=1) > 0.5]
    if seed is not None and share < 1:
        drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
        kept = kept[drawn[: max(1, round(share * len(kept)))].to(kept.device)]
    bank, classes = kept[:, :-1].contiguous(), kept[:, -1].long()
    return KNN(net, bank, k=min(50, -(-len(bank) // 10)) if k is None else k, classes=classes)
