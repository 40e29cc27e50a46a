"""What a run directory adds to an evaluation: blocks that survive, images as evidence, other processes."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from oodattack.attack import Found
from oodattack.data.disk import copied, room_on_disk
from oodattack.evaluation import Attacked, Keeper
from oodattack.runs.journal import Journal
from oodattack.runs.ranks import Ranks
from oodattack.runs.shards import Shards


class RunKeeper(Keeper):
    """Finished blocks go into the journal, images and scores into shards; process 0 alone writes the latter."""

    def __init__(self, folder: Path, plan: str, ranks: Ranks) -> None:
        self.folder, self.ranks = folder, ranks
        self.journal = Journal(folder / "journal", plan)
        self.shards = Shards(folder)

    def blocks(self, n: int, key: Callable[[int], str], work: Callable[[int], Found]) -> Iterator[Found]:
        """Block i is looked up or computed by process i modulo their number, and all of them get it."""
        for first in range(0, n, self.ranks.world):
            mine = first + self.ranks.rank
            for found in self.ranks.shared(lambda i=mine: self.block(key(i), i, work) if i < n else None):  # type: ignore[misc]
                if found is not None:
                    yield found

    def block(self, key: str, i: int, work: Callable[[int], Found]) -> Found:
        """One block, from the journal or computed and written there."""
        if (known := self.journal.read(key)) is not None:
            return known
        found = Found(*[None if t is None else t.cpu() for t in work(i)])  # type: ignore[arg-type]
        self.journal.write(key, found)
        return found

    def room(self, like: Tensor) -> Tensor:
        """Room on disk for images that are many."""
        return room_on_disk(like, self.journal.folder)

    def kept(self, x_adv: Tensor) -> Tensor | None:
        """The images themselves on the CPU; a copy of those elsewhere."""
        if not self.ranks.speaks or x_adv.device.type == "cpu":
            return x_adv if self.ranks.speaks else None
        return copied(x_adv, lambda like: self.room(like.new_empty((), device="cpu").expand(like.shape)))

    def sets(self, images: Mapping[str, Tensor]) -> None:
        """Write the images that are evaluated."""
        if self.ranks.speaks:
            for name, x in images.items():
                self.shards.images(name, x)

    def clean(self, detector: str, images: str, scores: Tensor) -> None:
        """Write the scores of a set before any attack."""
        if self.ranks.speaks:
            self.shards.clean(detector, images, scores)

    def cell(self, attacked: Attacked) -> None:
        """Write one attacked side of a cell."""
        if self.ranks.speaks:
            self.shards.side(attacked)
