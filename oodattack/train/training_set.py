"""What a recipe is fed with, however large: images stay where they are and as they are until a step needs them."""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.identity import digest

MOST_CLASSES = 100_000  # where there are not more images


class TrainingSet(NamedTuple):
    """What a recipe is fed with.

    Attributes:
        x: ID images (N, C, H, W), float in [0, 1] or uint8; may be mapped from a file.
        y: their labels (N,), int64, from 0.
        aux: auxiliary outliers (M, C, H, W), likewise; None where the objective needs none.
    """

    x: Tensor
    y: Tensor
    aux: Tensor | None

    @property
    def classes(self) -> int:
        """Number of ID classes."""
        return int(self.y.max()) + 1


def take(images: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Images (n, C, H, W) of these rows in [0, 1], with the dtype and device of `like`."""
    chosen = images[rows.to(images.device)]
    if chosen.dtype == torch.uint8:
        return chosen.to(like.device).to(like.dtype) / 255
    return chosen.to(like)


def check_data(data: TrainingSet, *, needs_aux: bool) -> None:
    """Raise ValueError unless images, labels and outliers fit together."""
    x, y, aux = data
    if x.ndim != 4 or len(x) == 0 or y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(
            f"`x` and `y` must have shapes (N, C, H, W) and (N,) with int64 labels, got {tuple(x.shape)} and "
            f"{tuple(y.shape)} of {y.dtype}. Pass one label an image."
        )
    if y.min() < 0 or y.max() >= max(MOST_CLASSES, len(y)):
        odd = y.min() if y.min() < 0 else y.max()
        raise ValueError(f"`y` must hold classes 0, 1, 2, ..., got {odd}. Renumber them.")
    if data.classes < 2:
        raise ValueError("`y` must have two classes or more, got one. Check the labels.")
    if needs_aux and aux is None:
        raise ValueError("`aux` must hold auxiliary outliers for this objective, got none. Pass some.")
    if aux is not None and (aux.shape[1:] != x.shape[1:] or len(aux) == 0):
        raise ValueError(
            f"`aux` must have the shape {tuple(x.shape[1:])} of ID images, got {tuple(aux.shape[1:])}. Resize them."
        )
    for name, images in (("x", x), ("aux", x if aux is None else aux)):
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise ValueError(f"`{name}` must be floating point or uint8, got {images.dtype}. Convert the images.")


def digests(data: TrainingSet) -> dict[str, str | None]:
    """sha256 of type, shape and bytes of each part."""
    return {name: None if part is None else digest(part) for name, part in data._asdict().items()}
