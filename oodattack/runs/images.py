"""Evidence read back: images and scores, a thousand rows at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodattack.lookup import summary
from oodattack.runs.evidence import ROWS_A_FILE, Evidence, inside


class Inputs:
    """The images of a run before any attack, and their scores, on the CPU.

    Attributes:
        folder: the run directory.
        evidence: its index.
        dtype: of the images.
        device: where the run computed.
    """

    def __init__(self, folder: Path, evidence: Evidence, job: Mapping[str, Any]) -> None:
        self.folder, self.evidence = folder, evidence
        self.dtype, self.device = dtype_of(job.get("dtype")), torch.device(str(job.get("device", "cpu")))

    def count(self, name: str) -> int:
        """Number of images in a set."""
        *whole, last = self.evidence.inputs[name]
        return len(whole) * ROWS_A_FILE + len(self.tensors(last)["images"])

    def blocks(self, name: str) -> Iterator[Tensor]:
        """The images of a set in [0, 1], a file at a time."""
        for file in self.evidence.inputs[name]:
            yield self.images(file)

    def block(self, name: str, first: int) -> Tensor:
        """The images of a set from row `first` on, which begins a file."""
        return self.images(self.evidence.inputs[name][first // ROWS_A_FILE])

    def rows(self, name: str, numbers: Tensor) -> Tensor:
        """Some images of a set, in any order."""
        found: list[Tensor] = [torch.empty(0)] * len(numbers)
        for part in numbers.div(ROWS_A_FILE, rounding_mode="floor").unique().tolist():
            block = self.block(name, part * ROWS_A_FILE)
            for i in (numbers.div(ROWS_A_FILE, rounding_mode="floor") == part).nonzero().flatten().tolist():
                found[i] = block[int(numbers[i]) - part * ROWS_A_FILE]
        return torch.stack(found)

    def clean(self, detector: str, name: str) -> Tensor:
        """A detector's scores of a set before any attack, as saved."""
        return self.tensors(self.evidence.clean[detector][name])["scores"]

    def images(self, file: str) -> Tensor:
        """The images of one file in [0, 1]."""
        found = self.tensors(file)["images"]
        return found.to(self.dtype) / 255 if found.dtype == torch.uint8 else found

    def tensors(self, file: str) -> dict[str, Tensor]:
        """Everything in one file."""
        return from_file(self.folder, file)


def dtype_of(word: object) -> torch.dtype:
    """The number type of a run by its name in the plan."""
    return torch.float64 if word == "float64" else torch.float32


def from_file(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file of evidence.

    Raises:
        ValueError: it cannot be read.
    """
    from safetensors.torch import load

    path = inside(folder, name)
    try:
        return load(path.read_bytes())
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise ValueError(f"{path}: must be a file of evidence, got {summary(error)}. Run again.") from None
