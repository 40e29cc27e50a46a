"""`oodattack train`: from the words of a command line to a trained network in a file."""

import os
from pathlib import Path
from typing import NamedTuple

from oodattack.data.disk import room_on_disk
from oodattack.data.overlap import digests
from oodattack.data.registry import check_names
from oodattack.job.ask import Training
from oodattack.job.device import checked_device
from oodattack.job.network_files import check_out, write
from oodattack.job.normalisation import mean_and_std
from oodattack.job.recipe import chosen_recipe, with_numbers
from oodattack.job.seen import Seen, read_seen
from oodattack.job.training_data import Fed, training_data
from oodattack.models.weights import read_weights
from oodattack.train import Setting, checked_record, trained
from oodattack.train.loop import Progress


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
    recipe = with_numbers(chosen_recipe(asked.objective, asked.recipe), asked.numbers)
    check_names({"--id": [asked.id], "--aux": [asked.aux]})
    checked_device(asked.device)
    weights = None if asked.weights is None else read_weights(asked.weights)
    record = None if asked.weights is None else checked_record(asked.weights)
    mean, std = mean_and_std(asked.mean, asked.std, weights=asked.weights, record=record)
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


def seen_by(fed: Fed, before: Seen) -> Seen:
    """Digests of the images that a network has learnt from, those `before` included, where it began from weights."""
    now = {name: digests(x) for name, x in fed.learnt().items()}
    return {name: now.get(name, set()) | before.get(name, set()) for name in {**now, **before}}


def labelled_training(progress: Progress | None) -> Progress | None:
    """A progress bar that says what it is of."""
    return None if progress is None else lambda what, done, total: progress(f"training {what}", done, total)


def cache_folder() -> Path:
    """Where trained networks are kept: OODATTACK_CACHE, or the user's cache directory."""
    if chosen := os.environ.get("OODATTACK_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("oodattack")
