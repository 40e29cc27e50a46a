"""Where a run of the loop is, with all that decides how it goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from oodattack.classifier import inner
from oodattack.train.checkpoint import Checkpoint
from oodattack.train.losses import Batch, Logits, Terms, batch_terms
from oodattack.train.outliers import Chooser, chooser
from oodattack.train.recipe import Recipe
from oodattack.train.schedule import make_optimiser, make_schedule
from oodattack.train.training_set import TrainingSet, take

TermsOf = Callable[[Logits, Batch, Generator], tuple[Terms, Terms]]  # those of the loss, and others to show
SCHEDULED = ("last_epoch", "_step_count", "_last_lr")  # all else of a schedule follows from the recipe


@runtime_checkable
class Stateful(Protocol):
    """What has a state beside the network."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how it goes on."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from there."""
        ...


@dataclass
class Run:
    """A run of the loop.

    Attributes:
        network: in training.
        optimiser: of its parameters.
        schedule: of the optimiser's learning rate.
        generator: of order, outliers, augmentation and noise; on the CPU.
        outliers: chooses auxiliary rows.
        terms: the loss.
        steps: in an epoch.
        epoch: 0 before the first.
        step: done within the epoch.
        order: of the ID images in this epoch.
        sums: of terms over the steps done within the epoch, float64.
        curve: a line an epoch.
        resumed: steps done at each time the run went on from a checkpoint.
    """

    network: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler
    generator: Generator
    outliers: Chooser
    terms: TermsOf
    steps: int
    epoch: int = 0
    step: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    sums: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Steps done in all."""
        return self.epoch * self.steps + self.step


def begin(network: nn.Module, recipe: Recipe, data: TrainingSet, *, seed: int) -> Run:
    """A run before its first step; what has random weights of its own takes them from torch's global random state."""
    steps = -(-len(data.x) // recipe.batch_size)
    optimiser = make_optimiser(network.parameters(), recipe)
    return Run(
        network,
        optimiser,
        make_schedule(optimiser, recipe, steps),
        Generator().manual_seed(seed),
        chooser(recipe, data, steps=steps, seed=seed),
        terms_of(network, recipe, data, optimiser, seed=seed),
        steps,
    )


def terms_of(network: nn.Module, recipe: Recipe, data: TrainingSet, optimiser: Optimizer, *, seed: int) -> TermsOf:
    """The loss of an objective, with its state where it keeps one."""
    like = take(data.x, torch.arange(1), next(network.parameters()).detach())
    if recipe.objective == "jem":
        from oodattack.train.chains import Chains

        return Chains(recipe, network, like, seed=seed)
    if recipe.objective == "confident":
        from oodattack.train.adversaries import Adversaries

        return Adversaries(recipe, optimiser, like)
    if recipe.objective == "ibp-oe":
        from oodattack.train.certified_exposure import CertifiedExposure

        return CertifiedExposure(recipe, network, recipe.epochs * -(-len(data.x) // recipe.batch_size))
    return lambda net, batch, generator: (batch_terms(net, recipe, batch, generator), {})


def state_of(run: Run) -> dict[str, Any]:
    """Everything but the weights, for a checkpoint."""
    schedule = run.schedule.state_dict()
    state = {name: getattr(run, name) for name in ("epoch", "step", "order", "sums", "curve", "resumed")} | {
        "optimiser": run.optimiser.state_dict(),
        "schedule": {name: schedule[name] for name in SCHEDULED},
        "generator": run.generator.get_state(),
        "cpu": torch.get_rng_state(),
    }
    device = next(run.network.parameters()).device
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    parts = {name: getattr(run, name) for name in ("outliers", "terms")}
    return state | {name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)}


def restore(run: Run, found: Checkpoint) -> None:
    """Go on from a checkpoint's weights and state."""
    state = found.state
    inner(run.network).load_state_dict(found.weights)
    device = next(run.network.parameters()).device
    for name in ("epoch", "step", "order", "curve", "resumed"):
        setattr(run, name, state[name])
    run.sums = {name: value.to(device) for name, value in state["sums"].items()}
    run.optimiser.load_state_dict(state["optimiser"])
    vars(run.schedule).update(state["schedule"])  # `load_state_dict` of a LambdaLR wants its functions, too
    run.generator.set_state(state["generator"])
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    for name in ("outliers", "terms"):
        if name in state:
            getattr(run, name).load_state_dict(state[name])
    run.resumed.append(run.done)
