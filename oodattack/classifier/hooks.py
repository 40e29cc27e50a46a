"""Hooks that do not outlive their use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    """Remove a hook on the way out, whatever happens."""
    try:
        yield
    finally:
        handle.remove()
