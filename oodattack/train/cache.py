"""Trained networks, kept: each is found again by everything that decides its weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack import __version__, models
from oodattack.classifier import Classifier, inner
from oodattack.identity import digest
from oodattack.models.weights import load_weights
from oodattack.train import checkpoint as checkpoints
from oodattack.train.exits import check_exits
from oodattack.train.files import weights_of
from oodattack.train.loop import Progress, fit, identity_of
from oodattack.train.measure import HeldOut, accuracy
from oodattack.train.recipe import Recipe, check_recipe
from oodattack.train.recipes import find_recipe
from oodattack.train.record import read_record, record_of, write_network
from oodattack.train.step import Precision
from oodattack.train.training_set import TrainingSet, check_data, digests

FORMAT, FORMATS = 2, {"poem": 3}  # of the cache, and by objective; raise one when the loop changes what it computes


class Trained(NamedTuple):
    """What `trained` returns.

    Attributes:
        network: in eval mode, its parameters frozen.
        accuracy: on held-out ID images.
        record: what is kept beside its weights: objective, classes, recipe, curve and so on.
    """

    network: nn.Module
    accuracy: float
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How networks are trained, whatever the recipe.

    Attributes:
        model: architecture, see `models.build`; None for the recipe's own.
        mean: the network subtracts it a channel, in [0, 1] units; None for no normalisation.
        std: it divides by that.
        seed: of initial weights and of the loop.
        device: where to compute.
        precision: see `fit`.
        every: seconds between checkpoints within an epoch.
    """

    model: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int
    device: str = "cpu"
    precision: Precision = "full"
    every: float = 300.0


def trained(
    recipe: str | Recipe,
    data: TrainingSet,
    held_out: HeldOut,
    *,
    setting: Setting,
    cache: Path,
    weights: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """The network of a recipe, from the cache or trained now, with the networks that it starts from.

    Args:
        recipe: its name, or itself.
        data: training images.
        held_out: ID images and labels for the accuracy.
        setting: see `Setting`.
        cache: folder of trained networks; made if missing.
        weights: to start from, in place of the recipe's own start.
        checkpoint: folder, made if missing; a killed run goes on from there, and a finished one clears it away.
        progress: called with (objective, steps done, steps in all).

    Raises:
        ValueError: an unknown name, parts that do not fit, weights that do not, or a folder that cannot be written.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    check_recipe(recipe)
    check_data(data, needs_aux=recipe.needs_aux)
    network = build(recipe, data, setting)
    check_exits(network, recipe)
    if weights is not None:
        load_weights(inner(network), weights, where="--weights")
    key = key_of(network, recipe, data, held_out, setting, own_start=weights is not None)
    path = cache / "networks" / f"{recipe.objective}-{key}.safetensors"
    record = from_cache(network, path)
    if record is None:
        if recipe.start is not None and weights is None:
            below = None if checkpoint is None else checkpoint / "start"
            same: dict[str, Any] = {"setting": setting, "cache": cache, "checkpoint": below, "progress": progress}
            inner(network).load_state_dict(inner(trained(recipe.start, data, held_out, **same).network).state_dict())
        own = None if checkpoint is None else checkpoint / "network"
        record = now(network, recipe, data, held_out, setting, checkpoint=own, progress=progress)
        keep(path, network, record)
    if checkpoint is not None:  # also one that was left by a run whose network another one finished
        clear(checkpoint)
    network.eval().requires_grad_(False)
    return Trained(network, record["accuracy"], record)


def now(
    network: nn.Module,
    recipe: Recipe,
    data: TrainingSet,
    held_out: HeldOut,
    setting: Setting,
    *,
    checkpoint: Path | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Train a network, in place; returns its record."""
    fitted = fit(
        network,
        recipe,
        data,
        seed=setting.seed,
        held_out=held_out,
        checkpoint=checkpoint,
        every=setting.every,
        precision=setting.precision,
        progress=progress,
    )
    facts = {
        "objective": recipe.objective,
        "classes": data.classes,
        "channels": data.x.shape[1],
        **asdict(setting) | {"model": setting.model or recipe.model},
        "recipe": asdict(recipe),
        "data": digests(data),
        "oodattack": __version__,
        "torch": torch.__version__,
        "accuracy": accuracy(network, held_out, classes=data.classes),
        "resumed": fitted.resumed,
        "curve": fitted.curve,
    }
    return record_of(weights_of(network), facts, extra_classes=recipe.extra_classes)


def clear(folder: Path) -> None:
    """Remove the checkpoints of a network and of those that it starts from, and nothing else."""
    for below in (folder / "start", folder / "network"):
        if below.is_dir():
            clear(below)
    checkpoints.clear(folder)


def build(recipe: Recipe, data: TrainingSet, setting: Setting) -> nn.Module:
    """The network before training, in training mode.

    Raises:
        ValueError: a normalisation for a model that has its own, or a model that cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        classes = data.classes + recipe.extra_classes
        network = models.build(setting.model or recipe.model, channels=data.x.shape[1], classes=classes)
    if setting.mean is not None or setting.std is not None:
        if isinstance(network, Classifier):
            raise ValueError(
                "`--mean` and `--std` must be left out for a model that is a Classifier, got them. Drop them."
            )
        network = Classifier(network, mean=setting.mean, std=setting.std)
    return network.to(setting.device)


def key_of(
    network: nn.Module,
    recipe: Recipe,
    data: TrainingSet,
    held_out: HeldOut,
    setting: Setting,
    *,
    own_start: bool,
) -> str:
    """Twelve hex digits that change with everything that decides weights and curve."""
    recipes, start = [], None if own_start else recipe.start
    while start is not None:
        recipes.append(asdict(find_recipe(start)))
        start = find_recipe(start).start
    facts = [
        FORMATS.get(recipe.objective, FORMAT),
        identity_of(network, recipe, data, seed=setting.seed, precision=setting.precision),
        recipes,
        [digest(part) for part in held_out],
        [
            setting.model or recipe.model,
            setting.mean,
            setting.std,
            torch.device(setting.device).type,
            torch.__version__,
        ],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def from_cache(network: nn.Module, path: Path) -> dict[str, Any] | None:
    """Load kept weights and return their record; None where there are none that are whole and fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    record = read_record(path)
    try:
        if record is not None:
            inner(network).load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):
        return None
    return record


def keep(path: Path, network: nn.Module, record: Mapping[str, Any]) -> None:
    """Write a network and its record into the cache."""
    try:
        write_network(path, weights_of(network), record)
    except OSError as error:
        raise ValueError(
            f"{path.parent}: cache folder must be writable, got {error.strerror}. Point OODATTACK_CACHE to another one."
        ) from None
