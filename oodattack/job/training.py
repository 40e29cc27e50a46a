"""`oodattack train`: from the words of a command line to a trained network in a file."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from oodattack.data.disk import room_on_disk
from oodattack.data.overlap import digests
from oodattack.data.registry import check_names
from oodattack.job.device import checked_device
from oodattack.job.normalisation import normalisation
from oodattack.job.seen import Seen, read_seen, write_seen
from oodattack.job.training_data import Fed, training_data
from oodattack.lookup import unknown
from oodattack.models.weights import read_weights
from oodattack.train import (
    PAPERS,
    RECIPES,
    Recipe,
    Setting,
    Trained,
    check_recipe,
    checked_record,
    curve_png,
    find_recipe,
    trained,
    write_network,
)
from oodattack.train.files import weights_of
from oodattack.train.loop import Progress
from oodattack.whole_file import replace_file

FIELD = re.compile(r"`(\w+)`")
FLAGS = {  # field of a recipe -> the option that changes it
    "epochs": "--epochs",
    "lr": "--lr",
    "batch_size": "--batch-size",
    "weight": "--weight",
    "weight_decay": "--weight-decay",
    "penalty": "--gradient-term",
    "quotient": "--quotient",
    "eps": "--eps",
    "margin_id": "--margin-id",
    "margin_aux": "--margin-aux",
    "sampler": "--sampler",
}
ENERGIES = ("energy", "greg", "greg+", "poem")
ONLY_OF = {  # field of a recipe -> the objectives that read it; not there: all, or `check_recipe` says
    "weight": tuple(name for name in RECIPES if name != "ce"),
    "quotient": ("gq",),
    "eps": ("ibp-oe",),
    "margin_id": ENERGIES,
    "margin_aux": ENERGIES,
}


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


class Done(NamedTuple):
    """A trained network in a file."""

    objective: str
    accuracy: float
    held_out: str  # what the accuracy is of
    notes: list[str]  # lines for whoever asked


def train(asked: Training, *, progress: Progress | None = None) -> Done:
    """Train a network and write its weights, its record and its curve.

    While it lasts, checkpoints are in a folder named after the output, and the same command goes on from there.

    Raises:
        ValueError: anything that the user can put right; one line.
    """
    beside = check_out(asked.out)
    recipe = chosen_recipe(asked)
    check_names({"--id": [asked.id], "--aux": [asked.aux]})
    checked_device(asked.device)
    weights = None if asked.weights is None else read_weights(asked.weights)
    record = None if asked.weights is None else checked_record(asked.weights)
    mean, std = normalisation(asked.mean, asked.std, weights=asked.weights, record=record)
    before = {} if asked.weights is None else read_seen(asked.weights, record)
    fed = training_data(
        asked.id,
        asked.aux,
        needs_aux=recipe.needs_aux,
        root=asked.data_root,
        protocol=asked.protocol,
        samples=asked.samples,
        seed=asked.seed,
        room=lambda x: room_on_disk(x, beside),
    )
    done = trained(
        recipe,
        fed.training,
        fed.held_out,
        setting=Setting(
            model=asked.model,
            mean=mean,
            std=std,
            seed=asked.seed,
            device=asked.device,
            precision=asked.precision,  # type: ignore[arg-type]
            every=asked.every,
        ),
        cache=cache_folder(),
        weights=weights,
        checkpoint=asked.out.with_suffix(".checkpoint"),
        progress=labelled_training(progress),
    )
    notes = write(asked, done, shared := fed.overlaps(), seen_by(fed, before))
    notes += [f"Warning: images in common: {n} both in {a} and in {b}. Take them out of one." for a, b, n in shared]
    return Done(recipe.objective, done.accuracy, fed.words, notes)


def chosen_recipe(asked: Training) -> Recipe:
    """The recipe of that name or that objective, with its numbers changed.

    Raises:
        ValueError: neither or unknown names, a recipe of another objective, or numbers out of range.
    """
    if asked.objective is None and asked.recipe is None:
        raise ValueError("`--objective` or `--recipe` must be given, got neither. See `oodattack list objectives`.")
    if asked.objective is not None and asked.objective not in RECIPES:
        raise unknown("--objective", asked.objective, [*RECIPES])
    recipe = RECIPES[asked.objective or ""] if asked.recipe is None else find_recipe(asked.recipe, "--recipe")
    if asked.objective not in (None, recipe.objective):
        raise ValueError(
            f"`--recipe` must be one of {asked.objective}, got {asked.recipe!r}, which is one of {recipe.objective}. "
            "Drop --objective."
        )
    numbers = {name: value for name, value in asked.numbers.items() if value is not None}
    for name, value in numbers.items():
        if recipe.objective not in (objectives := ONLY_OF.get(name, tuple(RECIPES))):
            only = f"Only {objectives[0]} reads" if len(objectives) == 1 else f"Only {', '.join(objectives)} read"
            raise ValueError(f"`{FLAGS[name]}` must be left out for {recipe.objective}, got {value!r}. {only} it.")
    if numbers.get("sampler") == "greg+":
        numbers["outliers"] = max(2, recipe.outliers)  # two a cluster, as many clusters as ID images
    recipe = replace(recipe, **numbers)
    try:
        check_recipe(recipe)
    except ValueError as error:
        raise ValueError(FIELD.sub(lambda found: f"`{FLAGS.get(found[1], found[1])}`", str(error))) from None
    return recipe


def recipes() -> list[dict[str, str]]:
    """Name, description and source of every recipe."""
    rows = []
    for name, recipe in {**RECIPES, **PAPERS}.items():
        start = f", from the network of {recipe.start}" if recipe.start else ""
        words = f"{recipe.objective}, {recipe.epochs} epochs, {recipe.optimiser} at {recipe.lr:g}{start}"
        rows.append({"name": name, "description": words, "source": recipe.source})
    return rows


def seen_by(fed: Fed, before: Seen) -> Seen:
    """Digests of the images that a network has learnt from, those `before` included, where it began from weights."""
    now = {name: digests(x) for name, x in fed.learnt().items()}
    return {name: now.get(name, set()) | before.get(name, set()) for name in {**now, **before}}


def write(asked: Training, done: Trained, shared: Sequence[tuple[str, str, int]], seen: Seen) -> list[str]:
    """Weights, record and curve into files beside one another; returns what to say about them."""
    origin = {"id": asked.id, "aux": asked.aux, "protocol": asked.protocol}
    record = {**origin, "weights": asked.weights and str(asked.weights), "overlaps": shared, **done.record}
    beside, picture = asked.out.with_suffix(".json"), asked.out.with_suffix(".png")
    try:
        write_network(asked.out, weights_of(done.network), record | {"seen": write_seen(asked.out, seen)})
        try:
            replace_file(picture, curve_png(done.record["curve"]))
            notes = [f"{beside}: what it is, and its training curve. {picture}: the curve as a picture"]
        except ModuleNotFoundError:
            notes = [f"{beside}: what it is, and its training curve. The extra `plots` (matplotlib) would draw it"]
    except OSError as error:
        raise not_writable(asked.out, error) from None
    return notes + ([f"Its score: {record['outlier_class']}"] if record["outlier_class"] else [])


def check_out(out: Path) -> Path:
    """Raise ValueError unless a .safetensors file can be written there; better now than after hours.

    Returns:
        The folder above that there is already.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"`--out` must end in .safetensors, got {str(out)!r}. Rename it.")
    folder = next(
        place for place in out.absolute().parents if place.exists()
    )  # others are made when there is something
    try:
        if out.is_dir():
            raise IsADirectoryError(0, "Is a directory")
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise not_writable(out, error) from None
    return folder


def not_writable(out: Path, error: OSError) -> ValueError:
    """The error for an output that cannot be written."""
    return ValueError(f"`--out` must be writable, got {str(out)!r}: {error.strerror}. Choose another.")


def labelled_training(progress: Progress | None) -> Progress | None:
    """A progress bar that says what it is of."""
    return None if progress is None else lambda what, done, total: progress(f"training {what}", done, total)


def cache_folder() -> Path:
    """Where trained networks are kept: OODATTACK_CACHE, or the user's cache directory."""
    if chosen := os.environ.get("OODATTACK_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("oodattack")
