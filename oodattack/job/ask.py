"""What `oodattack run` was asked for, and what it does when asked for nothing."""

from dataclasses import dataclass
from pathlib import Path

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
