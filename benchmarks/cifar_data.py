"""CIFAR-10 images and what is held against them, from a folder of arrays; noise is drawn.

Each file is an .npz with `images`, uint8 (N, H, W, C), and `labels` where it is fitted on:

    cifar10_test.npz       ID, evaluated rows first and target rows after them, in one order a seed
    cifar10_train10k.npz   training images for detectors that are fitted: another split, so disjoint from ID
    textures10_32.npz      far OOD
    cifar100_ood5k.npz     near OOD
    tinyimagenet32_val5k.npz   near OOD; its other rows are OOD validation images for detectors that are tuned
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

OOD_FILES = {"textures": "textures10_32.npz", "cifar100": "cifar100_ood5k.npz"}
OOD = (*OOD_FILES, "noise")
TINYIMAGENET = "tinyimagenet32_val5k.npz"


class Id(NamedTuple):
    """CIFAR-10 test images, no row in two of them."""

    x: Tensor  # (n, 3, 32, 32), in [0, 1]
    y: Tensor  # (n,)
    targets: Tensor  # (n, 3, 32, 32): for aims that need ID images beside the evaluated ones


def id_images(folder: Path, *, n: int, seed: int) -> Id:
    """n evaluated images and n others as targets, n <= 5000."""
    rows = order(10_000, 2 * n, seed)
    x, y = rows_of(folder / "cifar10_test.npz", rows)
    return Id(x[:n], y[:n], x[n:])


def fit_images(folder: Path, *, n: int = 10_000, seed: int) -> tuple[Tensor, Tensor]:
    """n training images and their labels, n <= 10,000."""
    return rows_of(folder / "cifar10_train10k.npz", order(10_000, n, seed))


def ood_images(name: str, folder: Path, *, n: int, seed: int) -> Tensor:
    """n images of "textures" (n <= 1200), "cifar100" (n <= 5000) or "noise" (uniform, independent pixels)."""
    if name == "noise":
        return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    path = folder / OOD_FILES[name]
    with np.load(path) as arrays:
        size = len(arrays["images"])
    return rows_of(path, order(size, n, seed))[0]


def tinyimagenet(folder: Path, *, n: int, validation: int, seed: int) -> tuple[Tensor, Tensor]:
    """n test images and `validation` others for tuning, from both ends of one order; at most 5000 together."""
    rows = order(5000, 5000, seed)
    if n + validation > len(rows):
        raise ValueError(f"`n` must be <= {len(rows) - validation} here, got {n}. Ask for fewer images.")
    return rows_of(folder / TINYIMAGENET, rows[:n])[0], rows_of(folder / TINYIMAGENET, rows[-validation:])[0]


def order(size: int, n: int, seed: int) -> Tensor:
    """The first n of `size` shuffled rows: a larger n adds rows and keeps the others."""
    if n > size:
        raise ValueError(f"`n` must be <= {size} here, got {n}. Ask for fewer images.")
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:n]


def rows_of(path: Path, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) in [0, 1] and labels (n,), -1 where the file has none."""
    with np.load(path) as arrays:
        images = torch.from_numpy(arrays["images"][rows.numpy()])
        labels = arrays["labels"][rows.numpy()] if "labels" in arrays else np.full(len(rows), -1)
    return images.permute(0, 3, 1, 2).contiguous().float() / 255, torch.from_numpy(labels).long()
