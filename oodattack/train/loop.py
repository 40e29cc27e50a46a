"""The one loop that all recipes run in."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack.classifier import Classifier, inner
from oodattack.lookup import summary
from oodattack.train import checkpoint as checkpoints
from oodattack.train.exits import check_exits, exits_of
from oodattack.train.files import architecture, sha256, tensor_bytes, weights_of
from oodattack.train.losses import Logits
from oodattack.train.measure import HeldOut, accuracy, energy_gradient
from oodattack.train.recipe import Recipe, check_recipe
from oodattack.train.run import Run, begin, restore, state_of
from oodattack.train.step import Precision, check_precision, mixed, one_step, own_randomness
from oodattack.train.training_set import TrainingSet, check_data, digests, take

Progress = Callable[[str, int, int], None]
Curve = list[dict[str, float]]


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        curve: a dict an epoch: its number, the learning rate after it, means of the loss and its terms over its steps,
            and, with held-out images, accuracy and mean norm of the energy's gradient.
        resumed: steps done at each time the run went on from a checkpoint; empty for a run in one go.
    """

    curve: Curve
    resumed: list[int]


def fit(
    network: nn.Module,
    recipe: Recipe,
    data: TrainingSet,
    *,
    seed: int,
    held_out: HeldOut | None = None,
    checkpoint: Path | None = None,
    every: float = 300.0,
    precision: Precision = "full",
    progress: Progress | None = None,
) -> Fitted:
    """Run a recipe on a network, in place; it is left in eval mode.

    With a checkpoint folder, a run that was killed goes on where the last checkpoint is and ends with the same weights,
    bit for bit on the same machine with as many threads.

    Args:
        network: logits of images in [0, 1], with one output more than classes for objectives with an outlier class.
        recipe: see `Recipe`.
        data: see `TrainingSet`; may stay on another device.
        seed: of order, outliers, augmentation and everything else that is random but the initial weights.
        held_out: ID images to measure on after each epoch.
        checkpoint: folder, made if missing; written after every epoch.
        every: seconds between checkpoints within an epoch, >= 0.
        precision: "bfloat16" computes the network's passes in mixed precision; its weights stay as they are.
        progress: called with (objective, steps done, steps in all) after every step.

    Raises:
        ValueError: a recipe, images or a network that do not fit together, or a checkpoint of something else.
        FloatingPointError: losses, parameters or what is measured are no longer finite.
    """
    check_recipe(recipe)
    check_data(data, needs_aux=recipe.needs_aux)
    check_precision(precision)
    check_exits(network, recipe)
    check_outputs(network, recipe, data, precision)
    with own_randomness(next(network.parameters()).device, seed):
        identity = {} if checkpoint is None else identity_of(network, recipe, data, seed=seed, precision=precision)
        run = begin(network, recipe, data, seed=seed)
        if checkpoint is not None and (found := checkpoints.read(checkpoint, identity)) is not None:
            try:
                restore(run, found)
            except (LookupError, TypeError, AttributeError, RuntimeError):
                raise checkpoints.unreadable(checkpoint) from None

        def save() -> None:
            if checkpoint is not None:
                check_finite(run)
                checkpoints.write(checkpoint, identity, weights_of(network), state_of(run), run.done)

        net = mixed(network, precision)
        while run.epoch < recipe.epochs:
            one_epoch(run, net, recipe, data, save=save, every=every, progress=progress)
            end_epoch(run, data, held_out)
            save()
    network.eval()
    return Fitted(run.curve, run.resumed)


def one_epoch(
    run: Run,
    net: Logits,
    recipe: Recipe,
    data: TrainingSet,
    *,
    save: Callable[[], None],
    every: float,
    progress: Progress | None,
) -> None:
    """The steps of an epoch that are not done yet."""
    if run.step == 0:
        run.order, run.sums = torch.randperm(len(data.x), generator=run.generator), {}
    saved = time.monotonic()
    for rows in batches(run.order, run.steps)[run.step :]:
        one_step(run, net, recipe, data, rows)
        if progress:
            progress(recipe.objective, run.done, run.steps * recipe.epochs)
        if run.step < run.steps and time.monotonic() - saved >= every:
            save()
            saved = time.monotonic()


def batches(order: Tensor, steps: int) -> Sequence[Tensor]:
    """An epoch's rows in as many steps, the last one shorter. Where that would leave it a single row, all are as equal
    as can be: only an odd number of rows in twos still has one.
    """
    parts = order.chunk(steps)
    return parts if len(parts[-1]) > 1 else order.tensor_split(steps)  # batch norms need two


def end_epoch(run: Run, data: TrainingSet, held_out: HeldOut | None) -> None:
    """Add a line to the curve, and count the epoch."""
    check_finite(run)
    lr = float(run.optimiser.param_groups[0]["lr"])
    means = {name: value.item() / run.steps for name, value in run.sums.items()}
    line = {"epoch": run.epoch + 1, "lr": lr, **means}
    if held_out is not None:
        line["accuracy"] = accuracy(run.network, held_out, classes=data.classes)
        line["energy_gradient"] = energy_gradient(run.network, held_out, classes=data.classes)
    check_finite(run, line)
    run.curve.append(line)
    run.epoch, run.step = run.epoch + 1, 0


def check_finite(run: Run, line: Mapping[str, float] | None = None) -> None:
    """Raise FloatingPointError unless losses so far, trained parameters and a line of the curve are finite.

    Looked at now and then, as it waits for a GPU.
    """
    learnt = [(name, value) for name, value in run.network.named_parameters() if value.requires_grad]
    bad = [name for name, value in (*run.sums.items(), *learnt) if not value.isfinite().all()]
    bad += [name for name, number in (line or {}).items() if not math.isfinite(number)]
    if bad:
        raise FloatingPointError(
            f"the loss must stay finite, got `{bad[0]}` that is not in epoch {run.epoch + 1}. Lower the learning rate."
        )


def identity_of(
    network: nn.Module, recipe: Recipe, data: TrainingSet, *, seed: int, precision: Precision
) -> dict[str, Any]:
    """What a checkpoint is of: two runs that differ here end with other weights."""
    scale = (network.mean, network.std) if isinstance(network, Classifier) else None
    loss = {} if exits_of(network) is None else {"loss": "all exits"}
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "precision": precision,
        "classes": data.classes,
        "data": digests(data),
        "network": architecture(network),
        "normalisation": None if scale is None else [part.flatten().tolist() for part in scale],
        "initial_weights": sha256(tensor_bytes(weights_of(network))),
        **loss,
    }


def check_outputs(network: nn.Module, recipe: Recipe, data: TrainingSet, precision: Precision) -> None:
    """Raise ValueError unless a network can be trained on the images, and has as many outputs as the recipe needs."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            "`network` must have parameters to train, got none with `requires_grad`. Unfreeze some, or take another."
        )
    like = next(network.parameters()).detach()
    x = take(data.x, torch.arange(2) % len(data.x), like)
    if isinstance(network, Classifier):
        x = network.normalised(x)
    training = network.training
    outputs = logits_of(inner(network.eval()), x, "")
    kept = [buffer.clone() for buffer in network.buffers()]
    with own_randomness(like.device, 0), torch.no_grad():
        logits_of(mixed(inner(network.train()), precision), x, " in training mode")
        for buffer, before in zip(network.buffers(), kept, strict=True):
            buffer.copy_(before)
    network.train(training)
    wanted = data.classes + recipe.extra_classes
    if outputs < wanted or (recipe.extra_classes and outputs != wanted):
        extra = " and one for outliers" if recipe.extra_classes else ""
        raise ValueError(
            f"`network` must have {wanted} outputs, {data.classes} classes{extra}, got {outputs}. Build it with those."
        )


def logits_of(network: Logits, x: Tensor, mode: str) -> int:
    """The number of logits that a network returns for images; errors say which mode it is in."""
    try:
        with torch.no_grad():
            logits = network(x)
    except Exception as error:  # whatever the user's code does
        shape = tuple(x.shape[1:])
        raise ValueError(
            f"`network` must take images {shape}{mode}, got {summary(error)}. Take another, or resize the images."
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"`network` must return logits ({len(x)}, K) of {len(x)} images{mode}, got {kind}. Wrap it in a module "
            "that does, or take another."
        )
    return logits.shape[1]
