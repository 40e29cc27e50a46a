"""The device of a job on this machine."""

import torch

from oodattack.lookup import summary
from oodattack.runs.ranks import Ranks

ALONE = Ranks()


def checked_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device of that name, if this machine has it; of several processes on several GPUs each has its own.

    Raises:
        ValueError: it does not.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and ranks.world > 1 and torch.cuda.is_available():
            device = torch.device("cuda", ranks.local % torch.cuda.device_count())
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` must be there, got {name!r}: {summary(error, 100)}. Try cpu.") from None
    return device
