"""The processes of one run: each computes its share of the blocks, all go on with the same results.

Started by torchrun, which says in the environment who is who; without it there is one process. What they exchange are
results on the CPU, so gloo carries it, whatever the device.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
PATIENCE = timedelta(days=7)  # a block may take long; torchrun ends the others when one process dies
T = TypeVar("T")


class Failed(NamedTuple):
    """What went wrong in a process, for the others."""

    wrong_use: bool
    message: str


class Ranks(NamedTuple):
    """This process among all of the run.

    Attributes:
        rank: its number; 0 writes and speaks.
        world: how many there are.
        local: its number on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def speaks(self) -> bool:
        """Whether it is this process that writes reports and prints."""
        return self.rank == 0

    def exchange(self, item: T) -> list[T]:
        """What each process has brought, in order of their numbers."""
        if self.world == 1:
            return [item]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, item)
        return found

    def agree(self, item: T) -> T:
        """What process 0 has brought."""
        return self.exchange(item)[0]

    def shared(self, work: Callable[[], T]) -> list[T]:
        """What work() gives in each process; where it fails in one, it fails in all.

        Raises:
            ValueError: it did in another process.
            RuntimeError: something else went wrong there.
        """
        if self.world == 1:
            return [work()]
        try:
            mine: Any = work()
        except Exception as error:
            self.exchange(Failed(isinstance(error, ValueError | FloatingPointError), str(error)))
            raise
        found = self.exchange(mine)
        for rank, item in enumerate(found):
            if isinstance(item, Failed):
                kind = ValueError if item.wrong_use else RuntimeError
                raise kind(f"{item.message} (in process {rank})")
        return found

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """The body runs in process 0, then in the others: what 0 has put into a cache, they find there."""
        if not self.speaks:
            self.exchange(None)
        yield
        if self.speaks:
            self.exchange(None)


def leave() -> None:
    """Join the threads that carry what is exchanged: those still running may abort an exit."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def join() -> Ranks:
    """Meet the other processes that torchrun has started, if it has."""
    if any(name not in os.environ for name in NAMES):
        return Ranks()
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if ranks.world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(leave)
    return ranks
