"""The recipe of a training, from the options of `oodattack train`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oodattack.lookup import unknown
from oodattack.train import PAPERS, RECIPES, Recipe, check_recipe, find_recipe

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


def chosen_recipe(objective: str | None, name: str | None) -> Recipe:
    """The recipe of that name, or else the embedded default's of that objective.

    Raises:
        ValueError: neither or unknown names, or a recipe of another objective.
    """
    if objective is None and name is None:
        raise ValueError("`--objective` or `--recipe` must be given, got neither. See `oodattack list objectives`.")
    if objective is not None and objective not in RECIPES:
        raise unknown("--objective", objective, [*RECIPES])
    recipe = RECIPES[objective or ""] if name is None else find_recipe(name, "--recipe")
    if objective not in (None, recipe.objective):
        raise ValueError(
            f"`--recipe` must be one of {objective}, got {name!r}, which is one of {recipe.objective}. "
            "Drop --objective."
        )
    return recipe


def with_numbers(recipe: Recipe, numbers: Mapping[str, Any]) -> Recipe:
    """A recipe with some of its fields changed; None leaves one.

    Raises:
        ValueError: numbers out of range, or that its objective does not read.
    """
    changed = {field: value for field, value in numbers.items() if value is not None}
    for field, value in changed.items():
        if recipe.objective not in (objectives := ONLY_OF.get(field, tuple(RECIPES))):
            only = f"Only {objectives[0]} reads" if len(objectives) == 1 else f"Only {', '.join(objectives)} read"
            raise ValueError(f"`{FLAGS[field]}` must be left out for {recipe.objective}, got {value!r}. {only} it.")
    if changed.get("sampler") == "greg+":
        changed["outliers"] = max(2, recipe.outliers)  # two a cluster, as many clusters as ID images
    recipe = replace(recipe, **changed)
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
