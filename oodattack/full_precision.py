"""Arithmetic that a score can be held to, on GPUs too."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

Setting = tuple[Any, str, Any]  # where, its name, its value


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, float32 is computed in float32, and by the same algorithm each time; what was set before comes back.

    By default PyTorch lets convolutions on recent Nvidia GPUs round their inputs to TF32, which has 10 bits of mantissa
    instead of 23: relative errors of 1e-3, as large as many a difference between two scores. And where cuDNN may
    choose, two runs of one search may part. Both are settings of the process, and mean nothing on a CPU.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    settings: list[Setting] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    # The old words first: those of PyTorch 2.9 and later, which a process may have used instead, have the last say.
    settings += [(part, "allow_tf32", False) for part in (cudnn, matmul)]
    if hasattr(cudnn, "conv"):
        settings += [(part, "fp32_precision", "ieee") for part in (cudnn.conv, cudnn.rnn, matmul)]
    before: list[Setting] = []
    for part, name, _ in settings:
        with suppress(RuntimeError):  # set in new words that the old ones cannot say
            before.append((part, name, getattr(part, name)))
    try:
        _set(settings)
        yield
    finally:
        _set(before)


def _set(settings: list[Setting]) -> None:
    for part, name, value in settings:
        setattr(part, name, value)
