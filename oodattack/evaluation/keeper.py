"""What a run directory may add to an evaluation: a place for finished blocks and for images, and other processes."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Found
from oodattack.evaluation.outcome import Side
from oodattack.threat import Threat


class Attacked(NamedTuple):
    """One attacked side of one cell.

    Attributes:
        detector: its name.
        threat: what was done to the rows.
        ood: the OOD set of the cell.
        images: the set that is attacked, "id" or "ood/NAME".
        name: of the rows; sides of the same name, detector and threat are the same.
        x: the images before any search, shape (N, C, H, W).
        clean: the detector's scores of `x`.
        side: what came out, with its images.
        targets: number of the ID image that each row was to match, or None.
    """

    detector: str
    threat: Threat
    ood: str
    images: str
    name: str
    x: Tensor
    clean: Tensor
    side: Side
    targets: Tensor | None


class Keeper:
    """Keeps nothing: every block of a search is computed, and images live in memory until nobody needs them."""

    def blocks(self, n: int, key: Callable[[int], str], work: Callable[[int], Found]) -> Iterator[Found]:
        """The blocks of one search, in order.

        Args:
            n: how many there are.
            key: number of a block -> SHA-256 of everything that decides its result.
            work: number of a block -> its result, computed now.
        """
        return (work(i) for i in range(n))

    def room(self, like: Tensor) -> Tensor:
        """Room for images, shape, type and device as `like`; not initialised."""
        return torch.empty_like(like)

    def kept(self, x_adv: Tensor) -> Tensor | None:
        """The images of a side, on the CPU, if `cell` will want them."""
        return None

    def sets(self, images: Mapping[str, Tensor]) -> None:
        """Told of the images that are evaluated, before anything is searched: "id", "targets", "ood/NAME"."""

    def clean(self, detector: str, images: str, scores: Tensor) -> None:
        """Told of a detector's scores of a set before any attack."""

    def cell(self, attacked: Attacked) -> None:
        """Told of every attacked side of every cell."""
