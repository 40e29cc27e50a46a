"""What is known of a trained network, in a JSON beside its weights: what it was trained for, and how it is read."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from oodattack.lookup import summary
from oodattack.train.files import sha256, tensor_bytes
from oodattack.whole_file import replace_file

FORMAT = 1
REMEDY = "Remove it, and give --mean and --std if the weights need them, or train anew."
OUTLIER_CLASS = (
    "the last output is the outlier class: OOD score p_K = softmax_K, so ID score 1 - p_K "
    "(--detector outlier-class); all other detectors see the outputs before it"
)


def record_of(weights: Mapping[str, Tensor], facts: Mapping[str, Any], *, extra_classes: int) -> dict[str, Any]:
    """The record of a network's weights.

    Args:
        weights: of the network.
        facts: `objective` and `classes`, the ID classes, and whatever else is known.
        extra_classes: outputs beyond the classes.
    """
    return {
        "format": FORMAT,
        "sha256": sha256(tensor_bytes(weights)),
        "outputs": facts["classes"] + extra_classes,
        "outlier_class": OUTLIER_CLASS if extra_classes else None,
        **facts,
    }


def write_network(path: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write `path`, a .safetensors file, and the JSON beside it.

    Raises:
        OSError: they cannot be written.
        ValueError: a record with numbers that are not finite.
    """
    words = json.dumps(record, indent=1, allow_nan=False) + "\n"
    replace_file(path, tensor_bytes(weights))
    replace_file(path.with_suffix(".json"), words.encode())


def read_record(path: Path) -> dict[str, Any] | None:
    """The record beside weights, None where there is none that belongs to them.

    Args:
        path: of the .safetensors file.
    """
    try:
        return checked_record(path)
    except ValueError:
        return None


def checked_record(path: Path) -> dict[str, Any] | None:
    """The record beside weights of somebody; None where there is none, or a JSON of another kind.

    Args:
        path: of the file with the weights.

    Raises:
        ValueError: a record that cannot be read, belongs to other weights, or does not say what one does.
    """
    beside = path.with_suffix(".json")
    try:
        record = json.loads(beside.read_bytes())
        digest = sha256(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{beside}: what lies beside weights must be JSON, got {summary(error)}. {REMEDY}") from None
    if not isinstance(record, dict) or "sha256" not in record or "format" not in record:
        return None
    if record["format"] != FORMAT:
        raise ValueError(f"{beside}: `format` must be {FORMAT}, got another. {REMEDY}")
    if record["sha256"] != digest:
        raise ValueError(f"{beside}: `sha256` must be that of {path.name}, got that of other weights. {REMEDY}")
    for field, fits in FIELDS.items():
        if not fits(record.get(field)):
            raise ValueError(f"{beside}: `{field}` must be as it was written, got something else. {REMEDY}")
    return record


def is_count(value: object) -> bool:
    """Whether it is a number of outputs."""
    return type(value) is int and value > 0


def is_scale(value: object) -> bool:
    """Whether it is a mean or std, one number a channel, or None."""
    return value is None or (isinstance(value, list) and all(type(part) in (int, float) for part in value))


FIELDS: dict[str, Callable[[object], bool]] = {  # of a record, as far as they are read
    "classes": is_count,
    "outputs": is_count,
    "outlier_class": lambda value: value is None or isinstance(value, str),
    "accuracy": lambda value: type(value) in (int, float),
    "mean": is_scale,
    "std": is_scale,
}
