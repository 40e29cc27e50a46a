"""Arithmetic that a score can be held to, on GPUs too."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

Setting = tuple[Any, str, Any]  # where, its name, its value
BACKENDS = torch.backends.cudnn, torch.backends.mkldnn
INHERITED = "none"  # in PyTorch's new words: as the setting above says


class _Matmul:
    """PyTorch's one word for products of float32 everywhere, as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, word: str) -> None:
        torch.set_float32_matmul_precision(word)


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, float32 is computed in float32, and by the same algorithm each time; what was set before comes back.

    By default PyTorch lets convolutions on recent Nvidia GPUs round their inputs to TF32, which has 10 bits of mantissa
    instead of 23: relative errors of 1e-3, as large as many a difference between two scores. And where cuDNN may
    choose, two runs of one search may part. All are settings of the process.
    """
    cudnn = torch.backends.cudnn
    # The old words first: those of PyTorch 2.9 and later, which a process may have used instead, have the last say.
    settings: list[Setting] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    settings += [(cudnn, "allow_tf32", False), (_Matmul(), "precision", "highest")]
    new = [getattr(backend, part, None) for backend in BACKENDS for part in ("conv", "rnn", "matmul")]
    new.append(torch.backends.cuda.matmul)
    settings += [(part, "fp32_precision", "ieee") for part in new if hasattr(part, "fp32_precision")]
    before: list[Setting] = []
    for part, name, _ in settings:
        with suppress(RuntimeError):  # set in new words that the old ones cannot say
            before.append((part, name, getattr(part, name)))
    try:
        for part, name, value in settings:
            setattr(part, name, value)
        yield
    finally:
        for part, name, value in before:
            _put_back(part, name, value)


def _put_back(part: Any, name: str, value: Any) -> None:
    """As it was: what followed the setting above goes on following it."""
    if name == "fp32_precision":
        setattr(part, name, INHERITED)
    if getattr(part, name) != value:
        setattr(part, name, value)
