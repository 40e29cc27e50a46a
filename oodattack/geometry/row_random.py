"""Random numbers that depend on (seed, key, row) and on nothing else.

Batch size, order of the rows, neighbours that stop early, device and dtype leave them alone, so a run that is resumed,
split over machines or given another batch size starts every attack from the same point.

Numbers are drawn on the CPU in float32 and then cast and moved. PyTorch's CPU generator keeps 32 bits of a seed, so
about n**2 / 2**33 pairs of n streams are equal: 1 pair in 100,000 streams. Two equal starts do no harm to an attack.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from oodattack.geometry.balls import norm_of


@dataclass(frozen=True)
class RowRandom:
    """One stream of random numbers per row. Every call goes on where the last one stopped. Build with `row_random`.

    Attributes:
        generators: one per row, on the CPU.
        device: where the numbers go.
        dtype: what `uniform` and `normal` return.
    """

    generators: tuple[Generator, ...]
    device: torch.device
    dtype: torch.dtype

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.generators)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1), shape (B, *shape). A cast to half precision can round up to 1."""
        numbers = torch.empty(len(self), *shape)
        for row, generator in zip(numbers, self.generators, strict=True):
            row.uniform_(generator=generator)
        return numbers.to(self.device, self.dtype)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, shape (B, *shape)."""
        numbers = torch.empty(len(self), *shape)
        for row, generator in zip(numbers, self.generators, strict=True):
            row.normal_(generator=generator)
        return numbers.to(self.device, self.dtype)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """Whole numbers in 0..high-1, shape (B, *shape), int64."""
        if high < 1:
            raise ValueError(f"`high` must be >= 1, got {high}. It is the first number that is never drawn.")
        numbers = torch.empty(len(self), *shape, dtype=torch.int64)
        for row, generator in zip(numbers, self.generators, strict=True):
            row.random_(0, high, generator=generator)
        return numbers.to(self.device)

    def take(self, index: Tensor) -> "RowRandom":
        """The streams of some rows, to go on with them alone. Streams are shared: draws from either advance both.

        Args:
            index: shape (K,), int64, distinct rows of this batch.

        Raises:
            ValueError: a row occurs twice, which would split one stream between two rows.
        """
        rows: list[int] = index.tolist()
        if len(set(rows)) < len(rows):
            raise ValueError(f"`index` must name each row once, got {rows}. Give each copy a key of its own.")
        return replace(self, generators=tuple(self.generators[row] for row in rows))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "RowRandom":
        """The same streams, delivered elsewhere."""
        return replace(self, device=torch.device(device), dtype=dtype)


def row_random(seed: int, key: str, rows: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> RowRandom:
    """Streams of some rows of a data set.

    Args:
        seed: of the run.
        key: what the numbers are for, such as "near-ood/linf-8-255/start". Different keys, independent numbers.
        rows: B numbers that identify the inputs across the whole run, not within a batch.
        device: where the numbers go.
        dtype: floating point.

    Returns:
        Streams at their beginning.
    """
    generators = tuple(Generator().manual_seed(_row_seed(seed, key, int(row))) for row in rows)
    return RowRandom(generators, torch.device(device), dtype)


def _row_seed(seed: int, key: str, row: int) -> int:
    name = f"{seed} {row} {key}".encode()  # the numbers come first: no two triples spell the same name
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def sphere(random: RowRandom, shape: Sequence[int], eps: float, norm: str) -> Tensor:
    """Uniform noise in [-eps, eps] per pixel, scaled back to the surface of the ball where it lies outside.

    The start of Algorithm 1 in Liang et al., arXiv:2009.08016, as their code draws it. For l2 and l1 in more than a few
    dimensions the noise is nearly always outside, so the start is on the sphere; for linf it never is.

    Args:
        random: streams, B of them.
        shape: of one row.
        eps: radius, >= 0, input units.
        norm: "linf", "l2" or "l1".

    Returns:
        Perturbations, shape (B, *shape), norm <= eps.

    Raises:
        ValueError: `norm` is none of the three.
    """
    noise = eps * (2 * _exact(random).uniform(shape) - 1)
    size = norm_of(noise.flatten(1), norm)
    scale = (eps / size).where(size > eps, 1)
    return (_per_row(scale, shape) * noise).to(random.device, random.dtype)


def ball(random: RowRandom, shape: Sequence[int], eps: float, norm: str) -> Tensor:
    """Points spread evenly over the volume of the ball. In many dimensions nearly all of it is near the surface.

    linf: uniform per pixel. l2: the direction of a normal vector, length eps U^(1/D). l1: D + 1 exponential numbers
    over their sum are uniform on a simplex; the first D with random signs are uniform in the ball.

    Args:
        random: streams, B of them.
        shape: of one row, D numbers.
        eps: radius, >= 0, input units.
        norm: "linf", "l2" or "l1".

    Returns:
        Perturbations, shape (B, *shape), norm <= eps.

    Raises:
        ValueError: `norm` is none of the three.
    """
    exact = _exact(random)
    if norm == "linf":
        points = 2 * exact.uniform(shape) - 1
    elif norm == "l2":
        points = exact.normal(shape)
        length = _each_row(lambda u: u ** (1 / math.prod(shape)), exact.uniform(()))
        points = _per_row(length / norm_of(points.flatten(1), "l2"), shape) * points
    elif norm == "l1":
        sizes, rest = (_each_row(lambda u: -torch.log1p(-u), exact.uniform(s)) for s in (shape, ()))
        signs = 2 * exact.integers(2, shape) - 1
        points = signs * sizes / _per_row(sizes.flatten(1).sum(dim=1) + rest, shape)
    else:
        raise ValueError(f"`norm` must be one of ['l1', 'l2', 'linf'], got {norm!r}. Pick one of them.")
    return (eps * points).to(random.device, random.dtype)


def _exact(random: RowRandom) -> RowRandom:
    """The same streams in float64 on the CPU, so that shaping the noise is the same everywhere too."""
    return random.to("cpu", torch.float64)


def _each_row(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f of one row at a time, shapes as `x`: in a whole tensor its last bit depends on where a number stands."""
    found = torch.empty_like(x)
    for out, row in zip(found, x, strict=True):
        out.copy_(f(row))
    return found


def _per_row(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Shape (B,) to (B, 1, ..., 1), one dimension for each of `shape`."""
    return values.view(-1, *(1 for _ in shape))
