"""The normalisation of a network whose weights come from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodattack.classifier.normalisation import normalisation

Scale = tuple[float, ...] | None  # one number a channel


def mean_and_std(
    mean: Scale, std: Scale, *, weights: Path | None, record: Mapping[str, Any] | None
) -> tuple[Scale, Scale]:
    """Mean and std of --mean and --std, or those that the weights were trained with.

    Args:
        mean: of --mean.
        std: of --std.
        weights: of the file.
        record: beside it, see `checked_record`; None where there is none.

    Raises:
        ValueError: they are given, and cannot be meant or differ from those of the training.
    """
    normalisation(mean, std)
    if record is None:
        return mean, std
    was_mean, was_std = (None if part is None else tuple(part) for part in (record.get("mean"), record.get("std")))
    if (mean or std) and (mean, std) != (was_mean, was_std):
        raise ValueError(
            f"`--mean` and `--std` must be {was_mean} and {was_std}, which {weights} was trained with, got {mean} and "
            f"{std}. Drop them."
        )
    return was_mean, was_std
