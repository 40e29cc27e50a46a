"""What the rest of the package means by a set of images."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.data.disk import blocks
from oodattack.data.rows import row_generator

OVERSHOOT = 0.1  # beyond [0, 1]: of a bicubic resize, and much less than what is left of a mean or 255


class Images(NamedTuple):
    """A data set in memory.

    Attributes:
        name: how the set was asked for.
        x: float32, shape (N, C, H, W), values in [0, 1].
        y: class labels, int64, shape (N,); None where there are none.
        source: where the pictures come from, for the report.
    """

    name: str
    x: Tensor
    y: Tensor | None
    source: str


def check_images(x: Tensor, name: str) -> Tensor:
    """Return `x` untouched if it can be a batch of images.

    Args:
        x: any tensor.
        name: what the error calls it.

    Raises:
        ValueError: `x` is not floating point, not (N, C, H, W), empty, not finite, or leaves [0, 1].
    """
    if not x.is_floating_point():
        raise ValueError(f"`{name}` must be floating point, got {x.dtype}. Divide 8-bit values by 255.")
    if x.ndim != 4:
        raise ValueError(f"`{name}` must have shape (N, C, H, W), got {tuple(x.shape)}. Add the missing axes.")
    if x.numel() == 0:
        raise ValueError(f"`{name}` must hold at least one image, got shape {tuple(x.shape)}. Check the source.")
    edges = torch.stack([torch.stack(block.detach().aminmax()) for block in blocks(x)])  # NaN if any value is
    low, high = edges[:, 0].amin().item(), edges[:, 1].amax().item()
    if not low - low == high - high == 0:
        bad = torch.cat([~block.isfinite().flatten(1).all(dim=1) for block in blocks(x)]).nonzero().flatten()
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity in {len(bad)} of {len(x)} images, the first in row "
            f"{bad[0].item()}. Remove those images."
        )
    if low < 0 or high > 1:
        remedy = "Divide 8-bit values by 255; mean and std belong inside the detector."
        if slightly := max(-low, high - 1) < OVERSHOOT:
            remedy = "Write x.clamp(0, 1) if that is what a resize or rounding left."
        digits = 9 if slightly else 3  # 1.0001 must not read as 1
        raise ValueError(f"`{name}` must be in [0, 1], got [{low:.{digits}g}, {high:.{digits}g}]. {remedy}")
    return x


def check_one_size(sizes: Iterable[tuple[int, int]], name: str) -> None:
    """Raise ValueError unless all (height, width) are the same."""
    (height, width), *others = dict.fromkeys(sizes)
    for other, wide in others:
        raise ValueError(
            f"`{name}` must hold pictures of one size, got {height} x {width} and {other} x {wide}. "
            "Name a --protocol that resizes, such as resize-256-crop-224."
        )


def subset(images: Images, samples: int | None, *, seed: int) -> Images:
    """Draw `samples` images without replacement, whatever their class, and keep their order.

    Args:
        images: the set, N images.
        samples: 1 <= samples <= N; None for all.
        seed: fixes the draw.

    Raises:
        ValueError: there are not that many.
    """
    keep = choose(len(images.x), samples, seed=seed, name=images.name)
    if len(keep) == len(images.x):
        return images
    return images._replace(x=images.x[keep], y=None if images.y is None else images.y[keep])


def choose(total: int, samples: int | None, *, seed: int, name: str, at_most: bool = False) -> Tensor:
    """Which of `total` images `subset` keeps, before any of them is read.

    Args:
        total: N, number of images.
        samples: 1 <= samples <= N; None for all.
        seed: fixes the draw.
        name: what the error calls the set.
        at_most: take all N where there are fewer than `samples`.

    Returns:
        Ascending indices, int64, shape (samples,).

    Raises:
        ValueError: there are not that many.
    """
    wanted = total if samples is None or (at_most and samples > total) else samples
    if wanted == total:
        return torch.arange(total)
    if not 1 <= wanted < total:
        raise ValueError(f"`samples` must be in 1..{total} for `{name}`, got {wanted}. It has {total} images.")
    return torch.randperm(total, generator=row_generator(seed, "subset", 0))[:wanted].sort().values
