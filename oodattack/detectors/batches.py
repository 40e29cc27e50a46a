"""Images to fit on, batch by batch: one tensor, or whatever yields batches again and again, as a DataLoader does."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

Images = Tensor | Iterable[Tensor] | Iterable[tuple[Tensor, Tensor]]
BATCH_SIZE = 256
RANGE = (0.0, 1.0)  # of pixels


def batches(
    x: Images, y: Tensor | None = None, *, net: nn.Module, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Pairs of images (b, C, H, W) and labels (b,) or None, on the device of the network; nothing else is held.

    Args:
        x: images (N, C, H, W) in [0, 1]; or an iterable of such tensors, or of (images, labels), that can be gone
            through several times. Batches of an iterable are taken as they come.
        y: labels (N,) of a tensor `x`; None if there are none or `x` yields them.
        net: tells the device, by its first parameter or buffer.
        batch_size: images a batch of a tensor `x`, >= 1.

    Raises:
        ValueError: no images, a generator that is empty the second time, batches that hold something else, labels that
            are not one an image, labels beside an iterable, or no images a batch.
    """
    tensors = [*net.parameters(), *net.buffers()]
    device = tensors[0].device if tensors else None
    found = 0
    for rows, labels in _pairs(x, y, batch_size):
        found += len(rows)
        if not rows.is_floating_point():
            raise ValueError(f"`x` must be images in [0, 1], got values of type {rows.dtype}. Divide by 255.")
        if len(rows) and not (rows.min() >= RANGE[0] and rows.max() <= RANGE[1]):  # NaN is neither
            ends = f"[{rows.min():.3g}, {rows.max():.3g}]"
            raise ValueError(f"`x` must be images in [0, 1], got {ends}. Divide by 255, or move mean/std inside.")
        if labels is not None and labels.shape != rows.shape[:1]:
            got = len(labels) if labels.ndim == 1 else f"shape {tuple(labels.shape)} of"
            raise ValueError(
                f"`y` must have one label an image, got {got} labels for {len(rows)} images. "
                "Pass those of the same images."
            )
        yield rows.to(device), None if labels is None else labels.to(device)
    if not found:
        raise ValueError("`x` must have images to fit on, got 0. Pass ID images, as a tensor or a DataLoader.")


def _pairs(x: Images, y: Tensor | None, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    if isinstance(x, Tensor):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be >= 1, got {batch_size}. Leave it out for the default.")
        y = None if y is None else torch.as_tensor(y)
        if y is not None and len(y) != len(x):
            raise ValueError(
                f"`y` must have one label an image, got {len(y)} labels for {len(x)} images. "
                "Pass those of the same images."
            )
        for start in range(0, len(x), batch_size):
            end = start + batch_size
            yield x[start:end], None if y is None else y[start:end]
        return
    if y is not None:
        raise ValueError("`y` must be left out where `x` yields batches, got both. Yield (images, labels).")
    yield from map(_pair, x)


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Images and labels of one batch: a tensor, (images,) as a `TensorDataset` has, or (images, labels)."""
    parts = [batch] if isinstance(batch, Tensor) else batch
    if not isinstance(parts, (list, tuple)) or len(parts) not in (1, 2) or not isinstance(parts[0], Tensor):
        kind = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise ValueError(f"`x` must yield tensors or (images, labels), got a {kind}. Wrap your loader.")
    return parts[0], torch.as_tensor(parts[1]) if len(parts) == 2 else None


def labelled(
    x: Images, y: Tensor | None = None, *, net: nn.Module, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Tensor, Tensor]]:
    """`batches` with labels, which must be there.

    Raises:
        ValueError: as `batches`, no labels, or labels that are no whole numbers.
    """
    for rows, labels in batches(x, y, net=net, batch_size=batch_size):
        if labels is None:
            raise ValueError("`y` must be the labels of the images, got none. Pass them, or yield (images, labels).")
        if labels.is_floating_point():
            raise ValueError(f"`y` must be whole numbers, got values of type {labels.dtype}. Pass classes 0, 1, 2, ...")
        yield rows, labels.long()


def over_batches(f: Callable[[Tensor], Tensor], x: Images, *, net: nn.Module, batch_size: int = BATCH_SIZE) -> Tensor:
    """What `f` makes of images, (b, C, H, W) -> (b, ...), for all batches one below the other. No gradient.

    Raises:
        ValueError: as `batches`.
    """
    with torch.no_grad():
        return torch.cat([f(rows) for rows, _ in batches(x, net=net, batch_size=batch_size)])


def shuffled(x: Images, generator: Generator) -> Images:
    """A tensor's rows in random order; batches as they come."""
    return x[torch.randperm(len(x), generator=generator).to(x.device)] if isinstance(x, Tensor) else x
