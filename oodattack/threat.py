"""A threat model: what the attacker may do. Data only; every run reads one from `threat_models/`."""

import hashlib
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from oodattack.geometry import norm_of, project_roughly, project_then_clamp
from oodattack.lookup import summary, unknown

Norm = Literal["linf", "l2", "l1"]
Aim = Literal["hide", "raise", "both", "match", "quantile"]
AttackName = Literal["pgd", "apgd", "adamax", "random-search"]
STARTS = ("ood", "noise", "colour-spiral", "grey-spiral", "checkerboard-2", "checkerboard-8")
STEP_SIZED = ("pgd", "adamax")


def _fraction(value: object) -> object:
    """Read "8/255" as a number; leave everything else to the type check."""
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            return value
    return value


Number = Annotated[float, BeforeValidator(_fraction), Field(allow_inf_nan=False)]


class ThreatModel(BaseModel):
    """Limits on one attacker, and how it searches. No field has a default: the choice is the point of the evaluation.

    Attributes:
        name: file stem, e.g. "linf-8-255".
        norm: ball that bounds the perturbation.
        eps: radius of the ball, > 0, in input units ([0, 1] pixels); a fraction such as "8/255" will do.
        aim: "hide" lowers the score of OOD inputs, "raise" lifts that of ID inputs, "both" does each; "match" brings
            OOD inputs onto a target ID image in `match`; "quantile" brings their score onto a quantile of ID scores.
        match: what to match: the detector's "latent", the network's "logits" or the "score". For "match" only.
        paired: the target of row i is the ID image i of the evaluation itself (Liang et al. 2020); false draws targets
            from ID images that are not evaluated. For "match" only.
        quantile: level in [0, 1]. For "quantile" only.
        start: where OOD inputs come from: "ood" (the OOD set), "noise", "colour-spiral", "grey-spiral",
            "checkerboard-2", "checkerboard-8" or "picture:PATH".
        init: first point of a restart: "clean", "ball" (uniform in the ball) or "sphere" (on its surface).
        attack: name of the search.
        step_size: share of eps, in (0, 2]; for pgd (length of a step) and adamax (learning rate) only.
        queries: detector calls per input, forward or forward plus backward, all restarts and the clean call included.
        restarts: independent searches that share the queries; each row keeps its best.
        iterate: "best" point seen per row, or the "last" one of a restart, as some papers' code returns; of several
            restarts each row keeps the better.
        source: paper or document the numbers come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    norm: Norm
    eps: Number = Field(gt=0)
    aim: Aim
    match: Literal["latent", "logits", "score"] | None = None
    paired: bool | None = None
    quantile: Number | None = Field(default=None, ge=0, le=1)
    start: str
    init: Literal["clean", "ball", "sphere"]
    attack: AttackName
    step_size: Number | None = Field(default=None, gt=0, le=2)
    queries: int = Field(ge=1)
    restarts: int = Field(ge=1)
    iterate: Literal["best", "last"]
    source: str = Field(min_length=1)

    @field_validator("start")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in STARTS and not value.startswith("picture:"):
            raise ValueError(f"must be one of {', '.join(STARTS)} or picture:PATH")
        return value

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"`eps` must be in (0, 1] for linf, got {self.eps:g}. Write 8/255, not 8.")
        for field, wanted, why in (
            ("match", self.aim == "match", 'aim = "match"'),
            ("paired", self.aim == "match", 'aim = "match"'),
            ("quantile", self.aim == "quantile", 'aim = "quantile"'),
            ("step_size", self.attack in STEP_SIZED, f"attack = {' or '.join(STEP_SIZED)}"),
        ):
            if (getattr(self, field) is not None) != wanted:
                verb = "is needed with" if wanted else "belongs only to"
                raise ValueError(
                    f"`{field}` {verb} {why}, got {getattr(self, field)!r}. {'Add' if wanted else 'Drop'} it."
                )
        if self.queries < 2 * self.restarts:
            raise ValueError(f"`queries` must be >= 2 a restart, got {self.queries} for {self.restarts}. Raise it.")
        return self

    @property
    def attacks_id(self) -> bool:
        """Whether ID inputs are perturbed."""
        return self.aim in ("raise", "both")

    @property
    def attacks_ood(self) -> bool:
        """Whether OOD inputs are perturbed."""
        return self.aim != "raise"

    @property
    def needs_targets(self) -> bool:
        """Whether ID images beside the evaluated ones are needed."""
        return self.aim == "quantile" or (self.aim == "match" and not self.paired)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Ball around `x`, then the [0, 1] box (for l1 both at once), up to rounding: for the inside of a search."""
        return project_roughly(x_adv, x, self.eps, self.norm)

    def settle(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The same without the rounding: for what a search returns."""
        return project_then_clamp(x_adv, x, self.eps, self.norm)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Perturbation size, shape (B,), in input units."""
        return norm_of(x_adv - x, self.norm)


class Suite(BaseModel):
    """Several threat models, run one after the other; its number takes each row at its worst over the members.

    Attributes:
        name: file stem.
        members: names or files of threat models with one norm, eps, start and attacked side.
        source: paper or document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    members: tuple[ThreatModel, ...] = Field(min_length=1, strict=False)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _members_agree(self) -> Self:
        for field in ("norm", "eps", "start", "attacks_id", "attacks_ood"):
            values = [(m.name, getattr(m, field)) for m in self.members]
            if len({value for _, value in values}) > 1:
                got = ", ".join(f"{value} in {name}" for name, value in values)
                raise ValueError(f"`members` must agree in `{field}`, got {got}. A worst case needs one set of limits.")
        return self


Threat = ThreatModel | Suite


def members_of(threat: Threat) -> tuple[ThreatModel, ...]:
    """The single threat models behind a threat."""
    return threat.members if isinstance(threat, Suite) else (threat,)


def preset_folder() -> Path:
    """The folder of the shipped threat models, in an installed package or a checkout."""
    installed = Path(__file__).parent / "threat_models"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "threat_models"


def presets() -> dict[str, Path]:
    """Name -> file of every shipped threat model."""
    return {path.stem: path for path in sorted(preset_folder().glob("*.toml"))}


def read_threat(name: str | Path) -> Threat:
    """Read a shipped threat model by name, or any TOML file by path.

    Raises:
        ValueError: no such name or file, or a field that is missing, unknown or out of range. The message names file,
            field, rule, value and remedy in one line.
    """
    return _read(_find(name), inside=None)


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix == ".toml":
        return path
    known = presets()
    if str(name) not in known:
        raise unknown("threat", str(name), [*known, "FILE.toml"])
    return known[str(name)]


def _read(path: Path, *, inside: Path | None) -> Threat:
    """Read a file; `inside` is the suite that names it as a member, if any."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: threat file must exist, but it does not. Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path}: threat file must be readable TOML, got {summary(error)}. Correct the file."
        ) from None
    if "name" in raw:
        raise ValueError(f"{path}: `name` is the file's own name, got {raw['name']!r}. Drop the field.")
    if inside is not None and "members" in raw:
        raise ValueError(
            f"{inside}: `members` must be single threat models, got the suite {path.stem!r}. Name its members instead."
        )
    try:
        if "members" in raw:
            return Suite(name=path.stem, **{**raw, "members": _members(raw["members"], path)})
        return ThreatModel(name=path.stem, **raw)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


def _members(names: Any, path: Path) -> tuple[ThreatModel, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{path}: `members` must be a list of threat names, got {names!r}. Write ["linf-8-255", ...].')
    beside = [path.parent / name if name.endswith(".toml") else name for name in names]
    if any(Path(name).resolve() == path.resolve() or name == path.stem for name in beside):
        raise ValueError(f"{path}: `members` must not name the suite itself, got {path.stem!r}. Drop it.")
    read = (_read(_find(name), inside=path) for name in beside)
    return tuple(t for t in read if isinstance(t, ThreatModel))


def explain(error: ValidationError) -> str:
    """The first complaint of a validation as one line: field, rule, value, remedy."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"`{field}` must be given, got nothing. Add it: no field of a threat model has a default."
    if first["type"] == "extra_forbidden":
        known = ", ".join(n for n in ThreatModel.model_fields if n != "name")
        return f"`{field}` must be a known field ({known}), got an unknown one. Correct or drop it."
    message = str(first["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    _, should, rest = message.partition(" should ")  # pydantic: "Input should be greater than 0"
    rule = f"must {rest}" if should else message if message.startswith("must") else f"must be right: {message}"
    return f"`{field}` {rule}, got {first['input']!r}. Correct the field."


def file_hash(threat: Threat) -> str:
    """SHA-256 of a threat model's content, its members' included."""
    return hashlib.sha256(threat.model_dump_json(exclude_none=True).encode()).hexdigest()
