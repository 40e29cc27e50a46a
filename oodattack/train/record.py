"""What is known of a trained network, in a JSON beside its weights: what it was trained for, and how it is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from oodattack.train.files import sha256, tensor_bytes
from oodattack.whole_file import replace_file

FORMAT = 1
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
    """
    replace_file(path, tensor_bytes(weights))
    replace_file(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


def read_record(path: Path) -> dict[str, Any] | None:
    """The record beside weights, None where there is none that belongs to them.

    Args:
        path: of the .safetensors file.
    """
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        whole = isinstance(record, dict) and record.get("sha256") == sha256(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if whole and record.get("format") == FORMAT else None
