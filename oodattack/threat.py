"""A threat model: what the attacker may do. Data only; every run reads one from `threat_models/`."""

import hashlib
import tomllib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from oodattack.geometry import norm_of, patch_side, project_patch_then_clamp, project_roughly, project_then_clamp
from oodattack.lookup import summary, unknown

Norm = Literal["linf", "l2", "l1", "patch"]
Aim = Literal["hide", "raise", "both", "match", "quantile", "cross"]
Objective = Literal["score", "logits", "latent", "class-logits", "misclassify"]
ON_A_SCORE = ("hide", "raise", "both")  # aims that say what they differentiate in `objective`
STARTS = ("ood", "id", "noise", "colour-spiral", "grey-spiral", "checkerboard-2", "checkerboard-8")
STEP_SIZED = ("pgd", "adamax")
CROSSING = ("fmn", "ddn", "rays", "hop-skip-jump")  # minimum-norm searches
LIMITED = ("affine", "colour", "stadv", "recolor")  # distortions with a unit of their own
ATTACK_NAMES = (
    *("pgd", "apgd", "adamax", "lbfgs", "random-search", "square", "nes", "spsa"),
    *CROSSING,
    *("corruptions", *LIMITED),
)
OUTSIDE = "torchattacks:"  # prefix of attacks from that library


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
        eps: radius of the ball, > 0, in input units ([0, 1] pixels); a fraction such as "8/255" will do. For the norm
            "patch" the side of the patch in pixels; for the aim "cross" the largest radius that is considered.
        aim: "hide" lowers the score of OOD inputs, "raise" lifts that of ID inputs, "both" does each; "match" brings
            OOD inputs onto a target ID image in `match`; "quantile" brings their score onto a quantile of ID scores;
            "cross" looks for the smallest perturbation that the threshold set on clean ID scores accepts.
        objective: what "hide", "raise" and "both" follow: the detector's own "score" (or its surrogate), the log-odds
            of the network's "logits", the "latent" of an image of the other side, the logits of several classes in
            turn ("class-logits"), or the classifier's mistake ("misclassify"). The score judges all but the last.
        match: what to match: the detector's "latent", the network's "logits" or the "score". For "match" only.
        paired: the target of row i is the ID image i of the evaluation itself (Liang et al. 2020); false draws targets
            from ID images that are not evaluated. For "match" only.
        quantile: level in [0, 1]. For "quantile" only.
        start: where OOD inputs come from: "ood" (the OOD set), "id" (ID images beside the evaluated ones), "noise",
            "colour-spiral", "grey-spiral", "checkerboard-2", "checkerboard-8" or "picture:PATH".
        init: first point of a restart: "clean", "ball" (uniform in the ball) or "sphere" (on its surface).
        attack: name of the search.
        step_size: share of eps, in (0, 2]; for pgd (length of a step) and adamax (learning rate) only.
        after: another threat model, by name or file: its results are the images that this one starts from and is
            measured from. For OOD inputs only.
        draws: calls averaged into one value and gradient, for detectors that use random numbers.
        severity: of corruptions, 1 to 5.
        limit: largest distortion in the attack's own unit; for affine, colour, stadv and recolor only.
        queries: detector calls per input, forward or forward plus backward, all restarts, draws and the clean call
            included.
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
    objective: Objective | None = None
    match: Literal["latent", "logits", "score"] | None = None
    paired: bool | None = None
    quantile: Number | None = Field(default=None, ge=0, le=1)
    start: str
    init: Literal["clean", "ball", "sphere"]
    attack: str
    step_size: Number | None = Field(default=None, gt=0, le=2)
    after: "ThreatModel | None" = None
    draws: int | None = Field(default=None, ge=1)
    severity: int | None = Field(default=None, ge=1, le=5)
    limit: Number | None = Field(default=None, gt=0)
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

    @field_validator("attack")
    @classmethod
    def _known_attack(cls, value: str) -> str:
        if value not in ATTACK_NAMES and not (value.startswith(OUTSIDE) and value != OUTSIDE):
            raise ValueError(f"must be one of {', '.join(ATTACK_NAMES)} or {OUTSIDE}NAME")
        return value

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"`eps` must be in (0, 1] for linf, got {self.eps:g}. Write 8/255, not 8.")
        if self.norm == "patch" and self.eps != int(self.eps):
            raise ValueError(f"`eps` must be a whole number of pixels for patch, got {self.eps:g}. Write 8 for 8 x 8.")
        for field, wanted, why in (
            ("match", self.aim == "match", 'aim = "match"'),
            ("paired", self.aim == "match", 'aim = "match"'),
            ("quantile", self.aim == "quantile", 'aim = "quantile"'),
            ("objective", self.aim in ON_A_SCORE, f"aim = {' or '.join(ON_A_SCORE)}"),
            ("step_size", self.attack in STEP_SIZED, f"attack = {' or '.join(STEP_SIZED)}"),
            ("severity", self.attack == "corruptions", 'attack = "corruptions"'),
            ("limit", self.attack in LIMITED, f"attack = {' or '.join(LIMITED)}"),
        ):
            if field == "step_size" and self.attack.startswith(OUTSIDE):
                continue  # theirs may have one
            if (getattr(self, field) is not None) != wanted:
                verb = "is needed with" if wanted else "belongs only to"
                raise ValueError(
                    f"`{field}` {verb} {why}, got {getattr(self, field)!r}. {'Add' if wanted else 'Drop'} it."
                )
        if (self.aim == "cross") != (self.attack in CROSSING):
            verb = "needs" if self.aim == "cross" else "must not be"
            raise ValueError(
                f"`aim` {self.aim!r} {verb} one of {', '.join(CROSSING)} as `attack`, got {self.attack!r}."
            )
        if self.after is not None and not (
            self.aim == "hide" and self.after.attacks_ood and self.start == self.after.start
        ):
            got = f"{self.aim!r} from {self.start!r} after {self.after.aim!r} from {self.after.start!r}"
            raise ValueError(f"`after` needs aim = hide, and a first one that attacks the same OOD inputs, got {got}.")
        if self.objective == "misclassify" and self.aim != "hide":
            raise ValueError(f"`objective` misclassify needs aim = hide, got {self.aim!r}. Change one of them.")
        if self.queries < 2 * self.restarts * (self.draws or 1):
            got = f"{self.queries} for {self.restarts}" + (f" of {self.draws} draws" if self.draws else "")
            raise ValueError(f"`queries` must be >= 2 a restart, got {got}. Raise it.")
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
        unpaired = self.aim == "match" and not self.paired
        return self.aim == "quantile" or unpaired or self.start == "id"

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Ball around `x`, then the [0, 1] box (for l1 both at once), up to rounding: for the inside of a search."""
        if self.norm == "patch":
            return project_patch_then_clamp(x_adv, x, self.eps)
        return project_roughly(x_adv, x, self.eps, self.norm)

    def settle(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The same without the rounding: for what a search returns."""
        if self.norm == "patch":
            return project_patch_then_clamp(x_adv, x, self.eps)
        return project_then_clamp(x_adv, x, self.eps, self.norm)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Perturbation size, shape (B,), in input units; the side of a patch in pixels."""
        if self.norm == "patch":
            return patch_side(x_adv - x)
        return norm_of(x_adv - x, self.norm)


class Suite(BaseModel):
    """Several searches within the same limits; its number takes each row at its worst over them.

    Attributes:
        name: file stem.
        members: threat models with one norm, eps, start and attacked side: names, files, or tables whose missing fields
            are those at the top of the suite's file.
        queries: detector calls per input that all members share. They run one after the other on the rows that can
            still change the AUROC; what is left buys further rounds of what has paid so far. None: every member
            spends its own on every row.
        source: paper or document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    members: tuple[ThreatModel, ...] = Field(min_length=1, strict=False)
    queries: int | None = Field(default=None, ge=2)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _members_agree(self) -> Self:
        for field in ("norm", "eps", "start", "attacks_id", "attacks_ood"):
            values = [(m.name, getattr(m, field)) for m in self.members]
            if len({value for _, value in values}) > 1:
                got = ", ".join(f"{value} in {name}" for name, value in values)
                raise ValueError(f"`members` must agree in `{field}`, got {got}. A worst case needs one set of limits.")
        if len({m.name for m in self.members}) < len(self.members):
            raise ValueError(f"`members` must differ in name, got {[m.name for m in self.members]}. Rename one.")
        if self.queries is not None:
            for m in self.members:
                if m.aim not in (*ON_A_SCORE, "cross") or m.iterate != "best":
                    got = f"aim {m.aim!r} and iterate {m.iterate!r} in {m.name}"
                    raise ValueError(
                        f"`members` that share `queries` must hide, raise or cross and keep the best, got {got}."
                    )
        return self


class Sweep(BaseModel):
    """One threat model at several radii: AUROC against eps, and eps50, the radius that leaves AUROC 0.5.

    Attributes:
        name: file stem.
        members: the threat model at each radius, in rising order.
        source: paper or document.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    members: tuple[ThreatModel, ...] = Field(min_length=2, strict=False)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _radii_rise(self) -> Self:
        radii = [m.eps for m in self.members]
        if any(b <= a for a, b in pairwise(radii)):
            raise ValueError(f"`eps` must rise from radius to radius, got {radii}. Sort them.")
        return self


Threat = ThreatModel | Suite | Sweep


def members_of(threat: Threat) -> tuple[ThreatModel, ...]:
    """The single threat models behind a threat."""
    return (threat,) if isinstance(threat, ThreatModel) else threat.members


def each_radius(threat: Threat) -> tuple[ThreatModel | Suite, ...]:
    """The threats that a cell of the report is about: a sweep has one at each radius."""
    return threat.members if isinstance(threat, Sweep) else (threat,)


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
    if inside is not None and ("members" in raw or isinstance(raw.get("eps"), list)):
        raise ValueError(
            f"{inside}: `members` must be single threat models, got {path.stem!r}, which is several. Name its members."
        )
    try:
        if "members" in raw:
            return _suite(raw, path)
        if isinstance(raw.get("eps"), list):
            radii = (f"{path.stem}@{eps}" for eps in raw["eps"])
            members = tuple(
                ThreatModel(name=n, **{**raw, "eps": eps}) for n, eps in zip(radii, raw["eps"], strict=True)
            )
            return Sweep(name=path.stem, members=members, source=members[0].source if members else "none")
        if "after" in raw:
            raw["after"] = _before(raw["after"], path)
        return ThreatModel(name=path.stem, **raw)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


def _before(name: Any, path: Path) -> ThreatModel:
    """The threat model that comes first in a composed one."""
    known = isinstance(name, str) and name != path.stem
    first = _read(_find(path.parent / name if name.endswith(".toml") else name), inside=None) if known else None
    if not isinstance(first, ThreatModel) or first.after is not None:
        raise ValueError(f"{path}: `after` must name another single threat model, got {name!r}. Name one.")
    return first


def _suite(raw: dict[str, Any], path: Path) -> Suite:
    """A suite from names of threat models, or from tables that complete the fields at the top of the file."""
    own = {field: raw[field] for field in ("members", "queries", "source") if field in raw}
    shared = {field: value for field, value in raw.items() if field not in own}
    if isinstance(raw["members"], list) and raw["members"] and all(isinstance(m, dict) for m in raw["members"]):
        own["members"] = tuple(_member(table, shared, raw, path) for table in raw["members"])
        return Suite(name=path.stem, **own)
    fields: dict[str, Any] = own | shared | {"members": _members(raw["members"], path)}
    return Suite(name=path.stem, **fields)


def _member(table: dict[str, Any], shared: dict[str, Any], raw: dict[str, Any], path: Path) -> ThreatModel:
    if not isinstance(table.get("name"), str):
        raise ValueError(f"{path}: `members` must each have a `name`, got {table}. Add it.")
    try:
        fields: dict[str, Any] = {"source": raw.get("source")} | shared | table
        return ThreatModel(**fields | {"name": f"{path.stem}/{table['name']}"})
    except ValidationError as error:
        raise ValueError(f"{path}: member {table['name']!r}: {explain(error)}") from None


def _members(names: Any, path: Path) -> tuple[ThreatModel, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        rule = "must be a list of threat names or of tables"
        raise ValueError(f'{path}: `members` {rule}, got {names!r}. Write ["linf-8-255", ...] or [[members]].')
    beside = [path.parent / name if name.endswith(".toml") else name for name in names]
    if any(Path(name).resolve() == path.resolve() or name == path.stem for name in beside):
        raise ValueError(f"{path}: `members` must not name the suite itself, got {path.stem!r}. Drop it.")
    read = (_read(_find(name), inside=path) for name in beside)
    return tuple(m for t in read for m in members_of(t))


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
