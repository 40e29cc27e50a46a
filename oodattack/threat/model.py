"""A threat model: what one attacker may do, and how it searches. Data only."""

import math
import re
from fractions import Fraction
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, field_validator, model_validator
from torch import Tensor

from oodattack.geometry import norm_of, patch_side, project_patch_then_clamp, project_roughly, project_then_clamp
from oodattack.threat.strict import Strict

Norm = Literal["linf", "l2", "l1", "patch"]
Aim = Literal["hide", "raise", "both", "match", "quantile", "cross"]
Objective = Literal["score", "logits", "latent", "class-logits", "misclassify"]
ON_A_SCORE = ("hide", "raise", "both")  # aims that say what they differentiate in `objective`
STARTS = ("ood", "id", "noise", "colour-spiral", "grey-spiral", "checkerboard-2", "checkerboard-8")
STEP_SIZED = ("pgd", "adamax")
CROSSING = ("fmn", "ddn", "rays", "hop-skip-jump")  # minimum-norm searches
LIMITED = ("affine", "colour", "stadv", "recolor")  # distortions with a unit of their own
ATTACK_NAMES = (
    *("pgd", "apgd", "pgd-decay", "adamax", "lbfgs", "random-search", "square", "nes", "spsa"),
    *CROSSING,
    *("corruptions", *LIMITED),
)
NORMS = {  # of attacks that do not know all of them
    **dict.fromkeys(("adamax", "lbfgs", "square", "fmn"), ("linf", "l2", "l1")),
    **dict.fromkeys(("corruptions", *LIMITED, "rays"), ("linf",)),
    "ddn": ("l2",),
    "hop-skip-jump": ("linf", "l2"),
}
OUTSIDE = "torchattacks:"  # prefix of attacks from that library
USER_CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # pkg.mod:callable

MOST = 10**9  # of queries, of a radius, of a limit: no search ends or starts beyond, and tensors hold it
LEAST = 1e-30  # radius: divisions by smaller ones overflow

SHORT = re.compile(r"\s*[+-]?[0-9./]{1,20}(e[+-]?[0-9]{1,2})?\s*")  # a number that costs nothing to compute


def _fraction(value: object) -> object:
    """Read "8/255" as a number; leave what is no text to the type check."""
    if isinstance(value, str) and SHORT.fullmatch(value):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            pass
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, str):
        raise ValueError('must be a number such as 0.03 or "8/255"')
    return value


Number = Annotated[float, BeforeValidator(_fraction)]


class ThreatModel(Strict):
    """Limits on one attacker, and how it searches. No field that applies has a default: the choice is the point
    of the evaluation.

    Attributes:
        name: file stem, e.g. "linf-8-255".
        norm: ball that bounds the perturbation.
        eps: radius of the ball, > 0, in input units ([0, 1] pixels); a fraction such as "8/255" will do. For the norm
            "patch" the side of the patch in pixels; for the aim "cross" the largest radius that is considered.
        aim: "hide" lowers the score of OOD inputs, "raise" lifts that of ID inputs, "both" does each; "match" brings
            OOD inputs onto a target ID image in `match`; "quantile" brings their score onto a quantile of ID scores;
            "cross" looks for the smallest perturbation that the threshold set on clean ID scores accepts.
        objective: what "hide", "raise" and "both" follow: the detector's own "score" (or its surrogate), the log-odds
            of the network's "logits" (or, where those are the score, their energy), the "latent" of as many images of
            the other side as there are `restarts` (in turns the nearest, and the nearest of the tenth that is hardest
            to pass), the logits of as many classes as there are `restarts`, or the `class_scores` of a detector that
            has them ("class-logits": those that come furthest in a few steps, or where no steps can be afforded the
            likeliest; of ID inputs all of them fall), or the classifier's mistake ("misclassify"). The score judges all
            but the last.
        match: what to match: the detector's "latent", the network's "logits" or the "score". For "match" only.
        paired: the target of row i is the ID image i of the evaluation itself (Liang et al. 2020); false draws targets
            from ID images that are not evaluated. For "match" only.
        quantile: level in [0, 1]. For "quantile" only.
        start: where OOD inputs come from: "ood" (the OOD set), "id" (ID images beside the evaluated ones), "noise",
            "colour-spiral", "grey-spiral", "checkerboard-2", "checkerboard-8" or "picture:PATH".
        init: first point of a restart: "clean", "ball" (uniform in the ball) or "sphere" (on its surface).
        attack: name of the search.
        step_size: share of eps (for a patch: of the range of a pixel), in (0, 2]; for pgd (length of a step) and adamax
            (learning rate) only.
        after: another threat model of the same `start`, by name or file, without an `after` of its own: its results are
            the images that this one starts from and is measured from. For "hide" only.
        draws: calls averaged into one value and gradient, for detectors that use random numbers.
        severity: of corruptions, 1 to 5.
        limit: largest distortion in the attack's own unit; for affine, colour, stadv and recolor only.
        queries: detector calls per input, forward or forward plus backward, all restarts, draws and the clean call
            included. What the search is set up with is not: the latent of the clean input and of those of the other
            side, and which classes it is likeliest to be.
        restarts: independent searches that share the queries; each row keeps its best.
        iterate: "best" point seen per row, or the "last" one of a restart, as some papers' code returns; of several
            restarts each row keeps the better.
        source: paper or document the numbers come from.
    """

    name: str
    norm: Norm
    eps: Number = Field(gt=0, le=MOST)
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
    limit: Number | None = Field(default=None, gt=0, le=MOST)
    queries: int = Field(ge=1, le=MOST)
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
        if value not in ATTACK_NAMES and not USER_CODE.fullmatch(value):
            raise ValueError(f"must be one of {', '.join(ATTACK_NAMES)}, {OUTSIDE}NAME or pkg.mod:callable")
        return value

    @model_validator(mode="after")
    def _ball_fits(self) -> Self:
        if self.eps < LEAST:
            raise ValueError(f"`eps` must be >= {LEAST:g}, got {self.eps:g}. Tensors hold no smaller ball: raise it.")
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"`eps` must be in (0, 1] for linf, got {self.eps:g}. Write 8/255, not 8.")
        if self.norm not in (known := NORMS.get(self.attack, (self.norm,))):
            raise ValueError(f"`norm` must be {' or '.join(known)} for {self.attack}, got {self.norm!r}. Change one.")
        if self.norm == "patch" and self.eps != int(self.eps):
            raise ValueError(f"`eps` must be a whole number of pixels for patch, got {self.eps:g}. Write 8 for 8 x 8.")
        return self

    @model_validator(mode="after")
    def _fields_belong(self) -> Self:
        for field, wanted, why in (
            ("match", self.aim == "match", 'aim = "match"'),
            ("paired", self.aim == "match", 'aim = "match"'),
            ("quantile", self.aim == "quantile", 'aim = "quantile"'),
            ("objective", self.aim in ON_A_SCORE, f"aim = {' or '.join(ON_A_SCORE)}"),
            ("step_size", self.attack in STEP_SIZED, f"attack = {' or '.join(STEP_SIZED)}"),
            ("severity", self.attack == "corruptions", 'attack = "corruptions"'),
            ("limit", self.attack in LIMITED, f"attack = {' or '.join(LIMITED)}"),
        ):
            if field == "step_size" and self.attack not in ATTACK_NAMES:
                continue  # others may have one
            if (getattr(self, field) is not None) != wanted:
                verb = "is needed with" if wanted else "belongs only to"
                raise ValueError(
                    f"`{field}` {verb} {why}, got {getattr(self, field)!r}. {'Add' if wanted else 'Drop'} it."
                )
        return self

    @model_validator(mode="after")
    def _aim_fits(self) -> Self:
        if self.aim == "cross" and self.attack not in CROSSING:
            raise ValueError(
                f"`attack` must be one of {', '.join(CROSSING)} for aim = cross, got {self.attack!r}. Change either."
            )
        if self.aim != "cross" and self.attack in CROSSING:
            raise ValueError(f"`aim` must be cross for {self.attack}, got {self.aim!r}. Change either.")
        if self.after is not None and not (
            self.aim == "hide" and self.after.attacks_ood and self.start == self.after.start
        ):
            got = f"{self.aim!r} from {self.start!r} after {self.after.aim!r} from {self.after.start!r}"
            raise ValueError(
                f"`after` needs aim = hide, and a first one that attacks the same OOD inputs, got {got}. Change one of "
                "them, or drop `after`."
            )
        if self.after is not None and self.after.after is not None:
            raise ValueError(f"`after` must have no `after` of its own, got {self.after.name!r} with one. Drop that.")
        if self.objective == "misclassify" and self.aim != "hide":
            raise ValueError(f"`objective` misclassify needs aim = hide, got {self.aim!r}. Change one of them.")
        return self

    @model_validator(mode="after")
    def _budget_fits(self) -> Self:
        if self.attack == "affine" and self.restarts > 1:
            raise ValueError(
                f"`restarts` must be 1 for affine, got {self.restarts}. Its grid is the same in each: write 1."
            )
        if self.queries < 2 * self.restarts * (self.draws or 1):
            got = f"{self.queries} for {self.restarts}" + (f" of {self.draws} draws" if self.draws else "")
            raise ValueError(f"`queries` must be >= 2 a restart, got {got}. Raise it.")
        return self

    @property
    def by_user_code(self) -> bool:
        """Whether the search is neither of this package nor of torchattacks."""
        return self.attack not in ATTACK_NAMES and not self.attack.startswith(OUTSIDE)

    @property
    def attacks_id(self) -> bool:
        """Whether ID inputs are perturbed."""
        return self.aim in ("raise", "both")

    @property
    def attacks_ood(self) -> bool:
        """Whether OOD inputs are perturbed."""
        return self.aim != "raise"

    @property
    def by_score(self) -> bool:
        """Whether an image is better for the attacker the further the detector's score has moved."""
        return self.aim in (*ON_A_SCORE, "cross") and self.objective != "misclassify"

    @property
    def needs_targets(self) -> bool:
        """Whether ID images beside the evaluated ones are needed."""
        unpaired = self.aim == "match" and not self.paired
        before = self.after is not None and self.after.needs_targets
        return self.aim == "quantile" or unpaired or before or self.start == "id"

    @property
    def reach(self) -> float:
        """What step sizes are shares of: eps, or for a patch, whose pixels are free, the range of a pixel."""
        return 1.0 if self.norm == "patch" else self.eps

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

    def largest(self, x: Tensor) -> float:
        """The distance that no image may exceed: eps, and two units in the last place of each pixel for rounding."""
        ulp = 2 * torch.finfo(x.dtype).eps
        slack: float = {"l2": ulp * x[0].numel() ** 0.5, "l1": ulp * x[0].numel()}.get(self.norm, ulp)
        return self.eps * (1 + 1e-6) + slack

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Perturbation size, shape (B,), in input units; the side of a patch in pixels."""
        if self.norm == "patch":
            return patch_side(x_adv - x)
        return norm_of(x_adv - x, self.norm)
