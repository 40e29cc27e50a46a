"""How many rows are computed at a time, and what happens when they do not fit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor

from oodattack.adapters.http_wire import ScorerError
from oodattack.aims import real
from oodattack.data.disk import forget_pages, placed
from oodattack.faults import fault, out_of_memory

CPU_PIXELS = 256 * 3 * 32 * 32  # of a batch on the CPU, where larger ones bring nothing: 256 CIFAR images
MOST_ROWS = 4096  # of a batch on a GPU
MEMORY_SHARE = 0.5  # of the free memory of a GPU
PROBE = 4  # rows
T = TypeVar("T")


@dataclass
class Batch:
    """The number of rows computed at a time; falls when the device runs out of memory, for all that follows too.

    Attributes:
        size: now.
        block: at first; a search is cut into blocks of this many rows, whatever happens to `size`.
    """

    size: int
    block: int = field(init=False)

    def __post_init__(self) -> None:
        """Remember where it started.

        Raises:
            ValueError: fewer than one row.
        """
        if not isinstance(self.size, Integral) or isinstance(self.size, bool):
            raise ValueError(f"`batch_size` must be a whole number, got {self.size!r}. Leave it out to have it chosen.")
        if self.size < 1:
            raise ValueError(f"`batch_size` must be >= 1, got {self.size}. Leave it out to have it chosen.")
        self.block = self.size


def automatic(f: Callable[[Tensor], Tensor], x: Tensor) -> Batch:
    """A batch size that fits: a fixed number of pixels on the CPU, on a GPU what a small probe says.

    Args:
        f: any detector; the probe takes one forward and backward pass through it.
        x: images, shape (N, C, H, W), on the device that will compute.
    """
    if x.device.type != "cuda":
        return Batch(power_of_two(min(CPU_PIXELS / x[0].numel(), 256)))
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    z = x[:PROBE].clone().requires_grad_()
    with torch.enable_grad():
        out = f(z)
        if out.requires_grad:
            torch.autograd.grad(out.sum(), z, allow_unused=True)
    a_row = (torch.cuda.max_memory_allocated(x.device) - before) / len(z)
    free, _ = torch.cuda.mem_get_info(x.device)
    return Batch(power_of_two(min(MEMORY_SHARE * free / max(a_row, 1), MOST_ROWS)))


def power_of_two(most: float) -> int:
    """The largest power of two <= `most`, at least 1."""
    return 1 << max(0, int(most).bit_length() - 1)


def in_blocks(n: int, batch: Batch, work: Callable[[slice], T]) -> list[T]:
    """work(rows) over rows 0..n-1, block by block. A block that does not fit in memory is done again in halves.

    Raises:
        ValueError: one row alone does not fit.
    """
    parts: list[T] = []
    first = 0

    def block(rows: int) -> int:
        parts.append(work(slice(first, first + rows)))
        forget_pages()
        return rows

    while first < n:
        first += with_room(n - first, batch, block)
    return parts


def with_room(most: int, batch: Batch, work: Callable[[int], T]) -> T:
    """work(rows) with at most `most` rows and a batch; with half of them, and so on, where that does not fit in memory.

    Raises:
        ValueError: one row alone does not fit.
    """
    while True:
        rows = min(most, batch.size)
        try:
            return work(rows)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if batch.size == 1:
                raise ValueError("one image must fit in memory, got none that does. Use another `device`.") from error
            batch.size = max(1, rows // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside the handler, which keeps the failed block's tensors alive


def by_rows(n: int, batch: Batch, work: Callable[[slice], Tensor]) -> Tensor:
    """work(rows) over rows 0..n-1 as one tensor, n >= 1, block by block."""
    out: Tensor | None = None

    def put(rows: slice) -> None:
        nonlocal out
        out = placed(work(rows), rows, n, out)

    in_blocks(n, batch, put)
    assert out is not None
    return out


def values(f: Callable[[Tensor], Tensor], x: Tensor, batch: Batch) -> Tensor:
    """f over all rows without a gradient, block by block, on the device of `x`."""
    with torch.no_grad():
        return real(by_rows(len(x), batch, lambda rows: answered(f, x[rows]).detach()))


def answered(f: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """f(*given); a ValueError in one line where a user's code fails."""
    try:
        return f(*given)
    except ScorerError:
        raise  # says itself what to do
    except Exception as error:
        if out_of_memory(error):
            raise  # the block is done again in halves
        raise ValueError(f"the detector must score any images in [0, 1], got {fault(error)}. Correct it.") from error
