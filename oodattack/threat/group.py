"""Several threat models under one name: a suite, or a sweep over radii."""

import hashlib
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from oodattack.threat.model import MOST, ON_A_SCORE, ThreatModel
from oodattack.threat.strict import Misfit, Strict


class Suite(Strict):
    """Several searches within one ball; its number takes each row at its worst over them.

    Attributes:
        name: file stem.
        members: threat models with one norm, eps, start, `after` and attacked side, each with a `limit` or `severity`
            of its own if its search has one: names, files, or tables whose missing fields are those at the top of the
            suite's file.
        queries: detector calls per input that all members share. They run one after the other on the rows that can
            still change the AUROC; what is left buys further rounds of what has paid so far. None: every member
            spends its own on every row.
        source: paper or document.
    """

    name: str
    members: tuple[ThreatModel, ...] = Field(min_length=1, strict=False)
    queries: int | None = Field(default=None, ge=2, le=MOST)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _members_agree(self) -> Self:
        for field in ("norm", "eps", "start", "after"):
            values = [(m.name, getattr(m, field)) for m in self.members]
            if len({value for _, value in values}) > 1:
                got = ", ".join(f"{getattr(value, 'name', value)} in {name}" for name, value in values)
                raise ValueError(f"`members` must agree in `{field}`, got {got}. A worst case needs one set of limits.")
        if len({(m.attacks_id, m.attacks_ood) for m in self.members}) > 1:
            got = ", ".join(f"{m.aim} in {m.name}" for m in self.members)
            raise ValueError(
                f"`members` must agree in the side that their `aim` attacks, got {got}. A worst case needs one: raise "
                "is for ID inputs, both for both, all others for OOD inputs."
            )
        if len({m.name for m in self.members}) < len(self.members):
            raise ValueError(f"`members` must differ in name, got {[m.name for m in self.members]}. Rename one.")
        return self

    @model_validator(mode="after")
    def _queries_can_be_shared(self) -> Self:
        if self.queries is None:
            return self
        if self.members[0].after is not None:
            raise ValueError(
                f"`members` that share `queries` must start from the images of the set, got `after` in "
                f"{self.members[0].name}. Drop `after`, or `queries`."
            )
        for m in self.members:
            if m.aim not in (*ON_A_SCORE, "cross") or m.iterate != "best":
                got = f"aim {m.aim!r} and iterate {m.iterate!r} in {m.name}"
                raise ValueError(
                    f"`members` that share `queries` must hide, raise or cross and keep the best, got {got}. "
                    "Drop that member, or `queries`."
                )
            if m.queries > self.queries:
                raise ValueError(
                    f"`queries` must be >= those of each member, got {self.queries} and {m.queries} in {m.name}. "
                    "Raise the former, or lower the latter."
                )
        return self


class Sweep(Strict):
    """One threat model at several radii: AUROC against eps, and eps50, the radius that leaves AUROC 0.5.

    Attributes:
        name: file stem.
        members: the threat model at each radius, in rising order.
        source: paper or document.
    """

    name: str
    members: tuple[ThreatModel, ...] = Field(min_length=2, strict=False)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _radii_rise(self) -> Self:
        radii = [m.eps for m in self.members]
        if any(b <= a for a, b in pairwise(radii)):
            remedy = "Sort them" if len(set(radii)) == len(radii) else "Write each once"
            raise ValueError(f"`eps` must rise from radius to radius, got {radii}. {remedy}.")
        return self


Threat = ThreatModel | Suite | Sweep
REPEATING = ("pgd", "apgd", "pgd-decay", "adamax", "lbfgs", "fmn", "ddn", "stadv", "recolor")  # from the same start


def limits_of(threat: Threat) -> ThreatModel:
    """A threat model with what all members share: start, attacked sides and norm; eps too, but not in a sweep."""
    return members_of(threat)[0]


def members_of(threat: Threat) -> tuple[ThreatModel, ...]:
    """The single threat models behind a threat."""
    return (threat,) if isinstance(threat, ThreatModel) else threat.members


def check_restarts(threat: Threat) -> Threat:
    """The threat untouched. Asked before it is used, not where a record of an older version is read.

    Raises:
        ValueError: restarts that would all be the same.
    """
    for m in members_of(threat):
        targets = m.objective in ("latent", "class-logits")  # each restart has its own
        if m.attack in REPEATING and m.init == "clean" and m.restarts > 1 and not (targets or m.draws):
            raise Misfit(
                f"`restarts` must be 1 for {m.attack} from `init` clean, got {m.restarts}. Write ball: each would be "
                "the same; or `draws` for a score that is random."
            )
    return threat


def shares_queries(threat: Threat) -> bool:
    """Whether it is a suite whose members spend one budget, on the rows that need it."""
    return isinstance(threat, Suite) and threat.queries is not None


def each_radius(threat: Threat) -> tuple[ThreatModel | Suite, ...]:
    """The threats that a cell of the report is about: a sweep has one at each radius."""
    return threat.members if isinstance(threat, Sweep) else (threat,)


def file_hash(threat: Threat) -> str:
    """SHA-256 of a threat model's content, its members' included."""
    return hashlib.sha256(threat.model_dump_json(exclude_none=True).encode()).hexdigest()
