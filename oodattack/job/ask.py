"""What `oodattack run` and `oodattack train` were asked for, and what the former does when asked for nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_DETECTORS = (
    "msp@ce",
    "energy@ce",
    "odin@ce",
    "mahalanobis@ce",
    "si-z@ce",
    "si-a@ce",
    "odin@gq",
    "energy@greg",
    "energy@greg+",
)
ON_A_MODEL = ("msp", "max-logit", "energy", "odin")  # the default with --model: they need no fit and no norm layers
DEFAULT_THREATS = ("liang-logit", "linf-8-255", "flagship", "sanity-full-box")
DEFAULT_OOD = ("digits-6-9", "far-mix")
DEFAULT_ID, DEFAULT_OOD_EACH = 500, 200  # images; ID ones cost a scoring pass, OOD ones a search


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `oodattack run` was asked for. Empty tuples and None stand for the embedded default."""

    detectors: tuple[str, ...] = ()
    threats: tuple[str, ...] = ()
    id: str = "digits"
    ood: tuple[str, ...] = ()
    model: str | None = None
    weights: tuple[Path, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: str | None = None
    id_validation: str | None = None
    ood_validation: str | None = None
    data_root: Path | None = None
    protocol: str | None = None
    samples: int | None = None
    seed: int = 0
    device: str = "cpu"
    batch_size: int | None = None
    precision: str = "full"
    dtype: str = "float32"
    certify: bool = False
    out: Path | None = None
    command: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What `oodattack train` was asked for.

    Attributes:
        objective: name of one, or None with `recipe`.
        recipe: name of one, or None for the embedded default's of the objective.
        numbers: fields of the recipe that are to be others, by their names in `Recipe`; None leaves one.
        id: labelled ID images.
        aux: outliers to train with.
        model: architecture; None for the recipe's own.
        weights: file to start from, in place of the recipe's own start.
        mean: per channel, subtracted by the network, in [0, 1] units; None for that of the record beside `weights`.
        std: per channel, it divides by that; likewise.
        data_root: folder of downloaded sets.
        protocol: what is done to the images of `id` and `aux`; None as in `training_data`.
        samples: ID images to train on, at most.
        seed: of everything random.
        device: where to compute.
        precision: "full" or "bfloat16".
        every: seconds between checkpoints within an epoch.
        out: the .safetensors file to write.
    """

    objective: str | None = None
    recipe: str | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    id: str = "digits"
    aux: str | None = None
    model: str | None = None
    weights: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    data_root: Path | None = None
    protocol: str | None = None
    samples: int | None = None
    seed: int
    device: str = "cpu"
    precision: str = "full"
    every: float = 300.0
    out: Path
