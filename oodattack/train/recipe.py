"""What a recipe says, and whether its numbers can be meant."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from oodattack import objectives
from oodattack.objectives import OBJECTIVES, SAMPLERS

Optimiser = Literal["sgd", "adam"]
Schedule = Literal["one-cycle", "cosine", "cosine-epochs", "steps"]
Quotient = Literal["code", "paper"]

MOST = 10**9  # of whatever is counted or weighed; tensors hold it
FASTEST = 1e38  # learning rate; what it does to the weights is looked at as they are trained
PENALISED = ("energy", "greg", "greg+", "poem", "oe", "dos")  # objectives with a score that the gradient term can take


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        objective: a name in `objectives.OBJECTIVES`.
        model: architecture that is taken where nobody names one, see `models.build`.
        start: name of the recipe whose network is fine-tuned, None to train from scratch.
        epochs: passes over the ID training set.
        lr: highest learning rate.
        weight: factor of the objective's own term: lambda of GQ, OE, DOS and OpenMix, beta of the energy margin loss
            and of the confident classifier, weight of the density in JEM.
        penalty: factor of GReg's gradient term, with the scaling of the authors' code; for energy, OE and DOS losses.
        quotient: reading of GQ: "code", of logits with the norm of the others' sum, or "paper", of the softmax with the
            sum of their norms, a backward pass a class.
        eps: radius of the linf balls around outliers of ibp-oe, in units of pixels in [0, 1].
        margin_id: m_in of the energy losses.
        margin_aux: m_aux of the energy losses.
        batch_size: ID images a step, at most.
        outliers: auxiliary images a step, in multiples of `batch_size`.
        sampler: name in `objectives.SAMPLERS`; None for the objective's own.
        weight_decay: of the optimiser.
        optimiser: "sgd" with momentum 0.9, or "adam" with torch's betas.
        nesterov: whether the momentum is Nesterov's.
        schedule: "one-cycle" rises to `lr` and falls; "cosine" falls each step, "cosine-epochs" each epoch;
            "steps" is constant between `milestones`.
        milestones: shares of the epochs after which the learning rate is multiplied by `decay`.
        decay: factor at a milestone.
        lr_end: what cosine schedules fall to.
        warmup: steps in which the learning rate rises from 0, linearly; not with "one-cycle".
        shift: largest random shift, pixels, zeros moving in; 4 is a random crop of an image padded by 4.
        flip: whether images are mirrored left to right at random.
        augment_aux: whether auxiliary images are shifted and flipped too.
        noise: standard deviation of normal noise on ID images, in units of pixels in [0, 1].
        chain: Langevin steps of JEM.
        buffer: images that JEM's chains begin in.
        source: where the numbers come from.
    """

    objective: str
    model: str = "small"
    start: str | None = None
    epochs: int
    lr: float
    weight: float = 0.0
    penalty: float = 0.0
    quotient: Quotient = "code"
    eps: float = 0.0
    margin_id: float = -25.0
    margin_aux: float = -7.0
    batch_size: int = 64
    outliers: int = 1
    sampler: str | None = None
    weight_decay: float = 5e-4
    optimiser: Optimiser = "sgd"
    nesterov: bool = True
    schedule: Schedule = "one-cycle"
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    lr_end: float = 0.0
    warmup: int = 0
    shift: int = 2
    flip: bool = False
    augment_aux: bool = False
    noise: float = 0.0
    chain: int = 20
    buffer: int = 10_000
    source: str = "chosen for the embedded default"

    @property
    def needs_aux(self) -> bool:
        """Whether there is anything to do for auxiliary images."""
        return OBJECTIVES[self.objective].needs_aux

    @property
    def chooser(self) -> str | None:
        """Name of the sampler in use: one of `SAMPLERS`, "poem", or None without outliers."""
        if not self.needs_aux:
            return None
        return self.sampler or OBJECTIVES[self.objective].sampler or self.objective

    @property
    def extra_classes(self) -> int:
        """Outputs beyond the ID classes."""
        return OBJECTIVES[self.objective].extra_classes


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError unless a recipe's names are known, its numbers in range, and its parts fit together."""
    for name, value, known in (
        ("objective", recipe.objective, [*OBJECTIVES]),
        ("sampler", recipe.sampler or "random", [*SAMPLERS]),
        ("optimiser", recipe.optimiser, get_args(Optimiser)),
        ("schedule", recipe.schedule, get_args(Schedule)),
        ("quotient", recipe.quotient, get_args(Quotient)),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}. Pick one of them.")
    for name in ("epochs", "batch_size", "outliers", "chain", "buffer"):
        if not 1 <= (count := getattr(recipe, name)) <= MOST:
            raise ValueError(f"`{name}` must be in [1, 1e9], got {count}. {'Lower' if count > MOST else 'Raise'} it.")
    for name in ("weight", "penalty", "weight_decay", "eps", "noise", "shift", "warmup", "lr_end"):
        if not 0 <= (number := getattr(recipe, name)) <= MOST:
            raise ValueError(f"`{name}` must be in [0, 1e9], got {number}. Take a number between.")
    if not 0 < recipe.lr <= FASTEST:
        raise ValueError(f"`lr` must be in (0, 1e38], got {recipe.lr}. SGD goes with 0.1 or so, Adam with 0.001.")
    if not 0 < recipe.decay < math.inf or not all(0 <= share <= 1 for share in recipe.milestones):
        raise ValueError(
            f"`decay` must be > 0 and `milestones` shares in [0, 1], got {recipe.decay} and {recipe.milestones}. "
            "Divide by the number of epochs."
        )
    check_parts(recipe)


def check_parts(recipe: Recipe) -> None:
    """Raise ValueError where one part of a recipe leaves no sense to another."""
    if recipe.penalty > 0 and recipe.objective not in PENALISED:
        raise ValueError(
            f"`penalty` must be 0 for {recipe.objective}, got {recipe.penalty}. The gradient term needs a score of "
            f"outliers: take {', '.join(PENALISED)}."
        )
    if recipe.sampler is not None and not recipe.needs_aux:
        raise ValueError(
            f"`sampler` must be left out for {recipe.objective}, got {recipe.sampler!r}. It has no outliers."
        )
    if recipe.sampler == "dos" and not recipe.extra_classes:
        with_class = [row.name for row in objectives.OBJECTIVES.values() if row.extra_classes]
        raise ValueError(
            f"`sampler` must be another than dos for {recipe.objective}, got 'dos'. It reads the outlier class, which "
            f"{' and '.join(with_class)} have."
        )
    if recipe.schedule == "one-cycle" and recipe.warmup:
        raise ValueError(f"`warmup` must be 0 with the schedule one-cycle, got {recipe.warmup}. It rises by itself.")
    for name in ("margin_id", "margin_aux"):
        if not abs(margin := getattr(recipe, name)) <= MOST:
            raise ValueError(f"`{name}` must be in [-1e9, 1e9], got {margin}. Take a number between.")
    if recipe.margin_id >= recipe.margin_aux:
        raise ValueError(
            f"`margin_id` must be < `margin_aux`, got {recipe.margin_id} and {recipe.margin_aux}. Swap the margins."
        )
    if recipe.chooser == "greg+" and recipe.batch_size * recipe.outliers % 2:
        raise ValueError(
            f"`outliers` must be even for the sampler greg+, got {recipe.outliers} times {recipe.batch_size}. It takes "
            "two a cluster: use 2."
        )
