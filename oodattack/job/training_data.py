"""The images that a network is trained with, by name."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack import data
from oodattack.data import Images
from oodattack.data.auxiliary import auxiliary
from oodattack.data.disk import Room, picked
from oodattack.data.images import choose
from oodattack.data.registry import kind_of, part_to_fit
from oodattack.job.look import look_of
from oodattack.train import HeldOut, TrainingSet

AUXILIARY = 2400  # outliers that the default networks train with
HELD_OUT = 10  # one image in as many is held out of a set without parts


class Fed(NamedTuple):
    """What a network is trained with and measured on."""

    training: TrainingSet
    held_out: HeldOut
    words: str  # what is held out

    def learnt(self) -> dict[str, Tensor]:
        """The images that a network learns from, by what they are called in a report."""
        x, _, aux = self.training
        return {"the training images": x} | ({} if aux is None else {"the auxiliary images": aux})

    def overlaps(self) -> list[tuple[str, str, int]]:
        """Pairs of training, held-out and auxiliary images that share some, and how many."""
        sets = {"training images": self.training.x, "held-out images": self.held_out.x}
        return data.overlaps(sets if self.training.aux is None else sets | {"auxiliary images": self.training.aux})


@lru_cache(maxsize=1)
def default_data() -> Fed:
    """Digits 0-5 and auxiliary outliers to train on; held-out digits with labels to measure accuracy on."""
    train = data.load("digits", part="train", seed=0)
    assert train.y is not None
    return Fed(
        TrainingSet(train.x, train.y, auxiliary(AUXILIARY, train=train, seed=0)), held_out_digits(), "digits 0-5"
    )


def held_out_digits(protocol: str | None = None) -> HeldOut:
    """All digits 0-5 that are not trained on."""
    parts = [data.load("digits", part=part, seed=0, protocol=protocol) for part in ("test", "reference")]
    return HeldOut(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts if p.y is not None]))


def training_data(
    name: str,
    aux: str | None,
    *,
    needs_aux: bool,
    root: Path | None,
    samples: int | None,
    seed: int,
    protocol: str | None = None,
    room: Room = torch.empty_like,
) -> Fed:
    """ID images, held-out ones and outliers in their format.

    Args:
        name: of labelled ID images. The part "train" is trained on and "test" is held out, where there are such parts
            with labels of the same classes; else a tenth is held out.
        aux: of outliers; None for those of the embedded default, on digits.
        needs_aux: whether the objective has a use for them.
        root: folder of downloaded sets.
        samples: ID images to train on, at most; None for all.
        seed: of all choices.
        protocol: what is done to the images, see `look_of`; None keeps the ID images as `data.load` has them.
        room: where to put many images.

    Raises:
        ValueError: sets that cannot be loaded, labels or outliers that are missing, or outliers without a use.
    """
    if aux is None and needs_aux and name != "digits":
        raise ValueError(
            f"`--aux` must name outliers to train with on {name!r}, got none. Add a data set, such as npz:PATH; see "
            "`oodattack list datasets`."
        )
    if aux is not None and not needs_aux:
        raise ValueError(f"`--aux` must be left out for an objective without outliers, got {aux!r}. Drop it.")
    if name == "digits" and aux is None and samples is None and protocol is None:
        return default_data()
    train, held_out, labels = labelled(name, samples=samples, root=root, seed=seed, protocol=protocol, room=room)
    assert train.y is not None and held_out.y is not None
    if missing := sorted({*labels.tolist()} - {*train.y.tolist()}):
        option, remedy = ("--id", "Add some") if samples is None else ("--samples", "Raise it")
        raise ValueError(
            f"`{option}` must leave images of every class, got none of class {missing[0]} to train on. {remedy}, or "
            "correct the labels of what is held out."
        )
    outliers = auxiliary(AUXILIARY, train=train, seed=0) if aux is None and name == "digits" else None
    if aux is not None:
        outliers = like(aux, train, root=root, seed=seed, protocol=protocol, room=room).x
    words = "digits 0-5" if name == "digits" else name
    return Fed(TrainingSet(train.x, train.y, outliers), HeldOut(held_out.x, held_out.y), words)


def labelled(
    name: str, *, samples: int | None, root: Path | None, seed: int, protocol: str | None, room: Room
) -> tuple[Images, Images, Tensor]:
    """Images to train on, images to hold out, both with labels, and labels of all classes.

    Of a set with a part "train" no more is read than `samples` need, so that its classes are those of what is read.

    Raises:
        ValueError: there are no labels, or too few images.
    """
    dataset = data.DATASETS[kind_of(name)]
    look: dict[str, Any] = {"seed": seed, "root": root, "protocol": protocol, "room": room}
    apart = (
        {"train", "test"} <= {*dataset.parts}
        and dataset.same_classes
        and data.load(name, part="test", samples=1, **look).y is not None
    )
    some: dict[str, Any] = {}
    if samples is not None and "train" in dataset.parts:
        needed = samples if apart else max(HELD_OUT, samples * HELD_OUT // (HELD_OUT - 1) + 1)
        some = {"samples": needed, "at_most": True}
    train = data.load(name, part=part_to_fit(name), **some, **look)
    if train.y is None:
        raise ValueError(f"`--id` must have labels to train with, got none in {name!r}. Store them as `labels`.")
    if name == "digits":
        digits = held_out_digits(protocol)
        return train, Images(name, digits.x, digits.y, train.source), digits.y
    if apart:
        held_out = data.load(name, part="test", **look)
        assert held_out.y is not None
        return train, held_out, held_out.y
    few = len(train.x) // HELD_OUT
    if few == 0:
        raise ValueError(
            f"`--id` must have {HELD_OUT} images or more, got {len(train.x)} in {name!r}. A tenth is held out."
        )
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))
    away, stay = order[:few].sort().values, order[few:].sort().values
    keep = stay[choose(len(stay), samples, seed=seed, name=name, at_most=True)]
    return (
        train._replace(x=picked(train.x, keep, room), y=train.y[keep]),
        train._replace(x=picked(train.x, away, room), y=train.y[away]),
        train.y,
    )


def like(name: str, train: Images, *, root: Path | None, seed: int, protocol: str | None, room: Room) -> Images:
    """Outliers in the format of the training images; as many as those where they are drawn afresh.

    Raises:
        ValueError: a set that cannot be loaded, or of another format.
    """
    found = data.load(
        name,
        part=part_to_fit(name),
        samples=len(train.x) if data.DATASETS[kind_of(name)].afresh else None,
        seed=seed,
        root=root,
        room=room,
        **look_of(name, train, protocol),
    )
    if found.x.shape[1:] != train.x.shape[1:]:
        raise ValueError(
            f"`--aux` must have the shape {tuple(train.x.shape[1:])} of the ID images, got {tuple(found.x.shape[1:])}. "
            "Resize them."
        )
    return found
