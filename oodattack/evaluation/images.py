"""Images as people have them, in tensors, loaders and data sets, as the one tensor that an evaluation takes."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from oodattack.detector import Detector
from oodattack.identity import behind

ImageSet = Tensor | DataLoader[Any] | Dataset[Any]
OPENOOD = "data"  # the key of the images in its batches, which hold another view of them too


def in_memory(images: ImageSet, name: str, *, device: torch.device, seed: int) -> Tensor:
    """All images of a DataLoader or a Dataset in its own order, shape (N, C, H, W); anything else is left as it is.

    A batch, or an element of a data set, is a tensor or holds one: first in a tuple or list, the only one of three axes
    or more in a mapping, or `data`. The rest, such as labels, is left out.

    Args:
        images: what to read, once.
        name: what errors call it.
        device: where to put what is read.
        seed: of loaders that shuffle and of random transforms, as far as they use torch's random numbers.

    Raises:
        ValueError: there are no images in it, or images of several sizes.
    """
    if not isinstance(images, DataLoader | Dataset):
        return images
    loader = images if isinstance(images, DataLoader) else DataLoader(images, batch_size=None)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        read = [rows.to(device) for rows in _batches(loader, name)]
    if not read:
        raise ValueError(f"`{name}` must hold at least one image, got an empty {type(images).__name__}. Fill it.")
    return torch.cat(read)


def all_in_memory(sets: Mapping[str, ImageSet], *, device: torch.device, seed: int) -> dict[str, Tensor]:
    """`in_memory` of each, by name."""
    return {name: in_memory(images, name, device=device, seed=seed) for name, images in sets.items()}


def _batches(loader: DataLoader[Any], name: str) -> Iterator[Tensor]:
    """The images of each batch, (b, C, H, W), all of one size."""
    size = None
    for batch in loader:
        rows = _images_of(batch, name)
        rows = rows[None] if rows.ndim == 3 else rows
        size = size or rows.shape[1:]
        if rows.shape[1:] != size:
            sizes = f"{tuple(size)} and {tuple(rows.shape[1:])}"
            raise ValueError(f"`{name}` must hold images of one size, got {sizes}. Resize them in its transform.")
        yield rows


def _images_of(batch: Any, name: str) -> Tensor:
    """What of a batch or an element is the images."""
    if isinstance(batch, Mapping):
        large = {key: value for key, value in batch.items() if isinstance(value, Tensor) and value.ndim >= 3}
        found = batch.get(OPENOOD) if len(large) != 1 else next(iter(large.values()))
        got = f"a mapping with {', '.join(map(str, batch))}"
    else:
        found = batch[0] if isinstance(batch, tuple | list) and batch else batch
        got = type(found).__name__
    if not isinstance(found, Tensor):
        raise ValueError(f"`{name}` must yield tensors of images, got {got}. Give it transform=transforms.ToTensor().")
    return found


def device_of(detectors: Mapping[str, Detector]) -> torch.device:
    """Where the first tensor of the networks behind detectors is; the CPU where none of them shows any."""
    modules = [m for detector in detectors.values() for m in (detector, behind(detector)) if isinstance(m, nn.Module)]
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
