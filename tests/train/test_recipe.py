"""What a recipe may say, and the numbers of the papers' recipes."""

from dataclasses import replace

import pytest

from oodattack.objectives import OBJECTIVES
from oodattack.train import PAPERS, RECIPES, check_recipe, find_recipe


@pytest.mark.parametrize("name", [*RECIPES, *PAPERS])
def test_every_recipe_is_possible_and_says_where_it_is_from(name):
    recipe = find_recipe(name)
    check_recipe(recipe)
    assert recipe.source
    assert recipe.start is None or find_recipe(recipe.start).objective == "ce"


def test_there_is_a_recipe_for_every_objective():
    assert [*RECIPES] == [recipe.objective for recipe in RECIPES.values()]
    assert {*RECIPES} == {*OBJECTIVES}
    assert {recipe.objective for recipe in PAPERS.values()} == {*OBJECTIVES}
    assert not {*RECIPES} & {*PAPERS}


def test_unknown_recipe_is_named():
    with pytest.raises(ValueError, match=r"Did you mean 'greg'\? `recipe` must be one of ce, gq.*got 'gregg'\."):
        find_recipe("gregg")


# objective: epochs, lr, batch size, outliers a batch, weight decay, weight
PUBLISHED = {
    "gq-cifar": (200, 0.1, 64, 1, 5e-4, 1e-6),
    "greg-cifar": (20, 1e-3, 64, 1, 1e-4, 0.1),
    "greg+-cifar": (60, 0.1, 64, 2, 1e-4, 0.1),
    "oe-scratch-cifar": (100, 0.1, 128, 2, 5e-4, 0.5),
    "oe-tune-cifar": (10, 1e-3, 128, 2, 5e-4, 0.5),
    "energy-cifar-10": (10, 1e-3, 128, 2, 5e-4, 0.1),
    "poem-cifar-10": (100, 0.1, 64, 1, 1e-4, 0.1),
    "dos-cifar": (100, 0.1, 64, 1, 1e-4, 1.0),
    "openmix-cifar": (200, 0.1, 128, 1, 5e-4, 1.0),
    "good-mnist": (420, 5e-3, 128, 1, 0.0, 0.3),
    "confident-cifar-10": (100, 2e-4, 64, 1, 0.0, 0.1),
    "jem-cifar": (200, 1e-4, 64, 1, 0.0, 1.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_the_papers(name):
    r = PAPERS[name]
    assert (r.epochs, r.lr, r.batch_size, r.outliers, r.weight_decay, r.weight) == PUBLISHED[name]


def test_more_numbers_of_the_papers():
    margins = {name: (recipe.margin_id, recipe.margin_aux) for name, recipe in PAPERS.items()}
    assert margins["energy-cifar-10"] == (-23, -5)
    assert margins["energy-cifar-100"] == (-27, -5)
    assert margins["greg-cifar"] == margins["greg+-cifar"] == margins["poem-cifar-10"] == (-25, -7)
    assert [PAPERS[n].nesterov for n in ("gq-cifar", "openmix-cifar", "greg-cifar", "oe-tune-cifar")] == [0, 0, 1, 1]
    assert all(r.shift == (0 if r.objective == "confident" else 4) for r in PAPERS.values())


def test_choosers():
    names = {name: recipe.chooser for name, recipe in RECIPES.items()}
    assert names == {
        "ce": None, "gq": None, "confident": None, "jem": None, "energy": "random", "greg": "random", "oe": "random",
        "ibp-oe": "random",
        "openmix": "random", "greg+": "greg+", "dos": "dos", "poem": "poem",
    }  # fmt: skip
    assert replace(RECIPES["poem"], sampler="greedy").chooser == "greedy"


BAD = {
    "objective": ("ce", {"objective": "gregg"}, "`objective` must be one of ce, gq.*got 'gregg'"),
    "sampler": ("oe", {"sampler": "best"}, "`sampler` must be one of random, greedy, dos, energy, greg+"),
    "optimiser": ("ce", {"optimiser": "lion"}, "`optimiser` must be one of sgd, adam, got 'lion'"),
    "schedule": ("ce", {"schedule": "flat"}, "`schedule` must be one of one-cycle, cosine, cosine-epochs, steps"),
    "quotient": ("gq", {"quotient": "both"}, "`quotient` must be one of code, paper, got 'both'"),
    "epochs": ("ce", {"epochs": 0}, r"`epochs` must be in \[1, 1e9\], got 0\. Raise it"),
    "batch size": ("ce", {"batch_size": -1}, r"`batch_size` must be in \[1, 1e9\], got -1"),
    "outliers": ("oe", {"outliers": 0}, r"`outliers` must be in \[1, 1e9\], got 0"),
    "weight": ("oe", {"weight": -0.5}, r"`weight` must be in \[0, 1e9\], got -0\.5"),
    "infinite weight": ("oe", {"weight": float("inf")}, r"`weight` must be in \[0, 1e9\], got inf"),
    "weight that is none": ("oe", {"weight": float("nan")}, r"`weight` must be in \[0, 1e9\], got nan"),
    "decay of weights": ("ce", {"weight_decay": -1e-4}, r"`weight_decay` must be in \[0, 1e9\]"),
    "decay that no tensor holds": (
        "ce",
        {"weight_decay": 1e300},
        r"`weight_decay` must be in \[0, 1e9\], got 1e\+300\. Take a number between",
    ),
    "batch size that no tensor holds": ("ce", {"batch_size": 10**20}, r"`batch_size` must be in .*0\. Lower it"),
    "shift": ("ce", {"shift": -1}, r"`shift` must be in \[0, 1e9\]"),
    "lr": ("ce", {"lr": 0.0}, r"`lr` must be in \(0, 1e38\], got 0\.0\. SGD goes with"),
    "lr that is none": ("ce", {"lr": float("nan")}, r"`lr` must be in \(0, 1e38\], got nan"),
    "milestones in epochs": ("ce", {"milestones": (50,)}, r"`milestones` shares in \[0, 1\], got 0\.1 and \(50,\)"),
    "decay": ("ce", {"decay": 0.0}, r"`decay` must be > 0 and .*got 0\.0"),
    "penalty without a score": (
        "gq",
        {"penalty": 1.0},
        r"`penalty` must be 0 for gq, got 1\.0.*take energy, greg, greg\+",
    ),
    "penalty of mixtures": ("openmix", {"penalty": 1.0}, "`penalty` must be 0 for openmix"),
    "sampler without outliers": ("ce", {"sampler": "greedy"}, "`sampler` must be left out for ce, got 'greedy'"),
    "sampler of another class": (
        "energy",
        {"sampler": "dos"},
        "`sampler` must be another than dos for energy.*openmix",
    ),
    "odd": (
        "greg+",
        {"outliers": 1, "batch_size": 5},
        r"`outliers` must be even for the sampler greg\+, got 1 times 5",
    ),
    "two rises": ("ce", {"warmup": 5}, "`warmup` must be 0 with the schedule one-cycle, got 5"),
    "margins": (
        "energy",
        {"margin_id": -7.0, "margin_aux": -25.0},
        r"`margin_id` must be < `margin_aux`, got -7\.0 and",
    ),
    "equal margins": ("energy", {"margin_id": -7.0}, "`margin_id` must be < `margin_aux`"),
    "margins that are none": ("energy", {"margin_id": float("nan")}, r"`margin_id` must be in \[-1e9, 1e9\], got nan"),
    "endless margins": ("energy", {"margin_id": -float("inf")}, r"`margin_id` must be in \[-1e9, 1e9\], got -inf"),
}


@pytest.mark.parametrize(("name", "changes", "message"), BAD.values(), ids=BAD)
def test_impossible_recipes(name, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_recipe(replace(RECIPES[name], **changes))
    assert "\n" not in str(caught.value)
