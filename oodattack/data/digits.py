"""Handwritten digits: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.

scikit-learn ships 1797 of them, 8 x 8 pixels of 0..16. Here 0-5 are in-distribution and 6-9 are near OOD.
"""

import torch
from torch import Generator, Tensor, nn

from oodattack.data.images import Images

SOURCE = "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits)"
SPLIT_SEED = 0  # which image is in which part never depends on the seed of a run
SHARES = {"train": 0.4, "test": 0.3, "reference": 0.3}


def digits(part: str, *, channels: int = 1, size: int = 32) -> Images:
    """Digits 0-5, 1083 images in three disjoint parts, each with its share of every class.

    Args:
        part: "train" (40 %: fits networks and detectors), "test" (30 %: the negatives of every AUROC) or "reference"
            (30 %: what matching attacks aim at).
        channels: 1; 3 repeats the grey picture.
        size: pixels a side.

    Returns:
        Images in the order of the source, labels 0..5.

    Raises:
        ValueError: an unknown part.
    """
    if part not in SHARES:
        raise ValueError(f"`part` must be one of {', '.join(SHARES)}, got {part!r}. Name one of them.")
    x, y = read_digits(channels, size)
    keep = split(y, list(SHARES.values()))[list(SHARES).index(part)]
    keep = keep[y[keep] <= 5]
    return Images("digits", x[keep], y[keep], SOURCE)


def digits_6_9(*, channels: int = 1, size: int = 32) -> Images:
    """Digits 6-9, all 714 images, labels 6..9. Arguments as `digits`."""
    x, y = read_digits(channels, size)
    return Images("digits-6-9", x[y > 5], y[y > 5], SOURCE)


def split(y: Tensor, shares: list[float]) -> list[Tensor]:
    """Class-stratified random split with a fixed seed.

    Args:
        y: labels, shape (N,).
        shares: of each part, sum 1. Within a class the sizes are right to one image.

    Returns:
        Ascending indices of each part: disjoint, together 0..N-1.
    """
    generator = Generator().manual_seed(SPLIT_SEED)
    parts: list[list[Tensor]] = [[] for _ in shares]
    for label in sorted(set(y.tolist())):
        members = (y == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        edges = [round(sum(shares[:k]) * len(members)) for k in range(len(shares) + 1)]
        for k, part in enumerate(parts):
            part.append(members[edges[k] : edges[k + 1]])
    return [torch.cat(part).sort().values for part in parts]


def read_digits(channels: int, size: int) -> tuple[Tensor, Tensor]:
    """All ten digits, enlarged bilinearly: x (1797, channels, size, size) in [0, 1] and y (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    x = nn.functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False).clamp(0, 1)
    return x.repeat(1, channels, 1, 1), torch.from_numpy(data.target).long()
