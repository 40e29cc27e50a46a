"""Recipes by name: those of the embedded default, named after their objectives, and those of the papers."""

from dataclasses import replace

from oodattack.lookup import unknown
from oodattack.train.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.objective: recipe
    for recipe in (
        Recipe(objective="ce", epochs=20, lr=0.1),
        Recipe(objective="gq", epochs=20, lr=0.1, weight=1.0),
        Recipe(objective="energy", start="ce", epochs=10, lr=0.01, weight=0.1),
        Recipe(objective="greg", start="ce", epochs=10, lr=0.01, weight=0.1, penalty=1.0),
        Recipe(objective="greg+", start="ce", epochs=10, lr=0.01, weight=0.1, penalty=1.0, outliers=2),
        Recipe(objective="oe", start="ce", epochs=10, lr=0.01, weight=0.5),
        Recipe(
            objective="ibp-oe",
            model="plain",
            epochs=100,
            lr=3e-3,
            weight=1.0,
            eps=0.03,
            optimiser="adam",
            weight_decay=0.0,
        ),
        Recipe(objective="poem", start="ce", epochs=10, lr=0.01, weight=0.1),
        Recipe(objective="dos", epochs=20, lr=0.1, weight=1.0),
        Recipe(objective="openmix", epochs=20, lr=0.1, weight=1.0),
        Recipe(objective="confident", epochs=20, lr=0.1, weight=1.0),
        Recipe(objective="jem", epochs=20, lr=0.01, weight=0.1, noise=0.015, buffer=512),
    )
}

OE = "code of arXiv:1812.04606"
ENERGY = "code of arXiv:2010.03759"
GREG = "arXiv:2404.12368, section 6, Experimental Setup"
BY_PIXELS = "with --mean and --std the gradient term, by pixels in [0, 1], is 1 / std times the authors'"
POEM = "code of arXiv:2206.13687; the colour jitter is left out"
CONFIDENT = "code of arXiv:1711.09325"

# random crop of an image padded by 4, and mirroring, of ID and auxiliary images
CIFAR = Recipe(
    objective="ce",
    epochs=100,
    lr=0.1,
    batch_size=128,
    schedule="cosine",
    lr_end=1e-6,
    shift=4,
    flip=True,
    augment_aux=True,
    source=f"{OE}, baseline",
)
_OE = replace(CIFAR, objective="oe", weight=0.5, outliers=2)
_ENERGY = replace(_OE, objective="energy", start="ce-cifar", epochs=10, lr=1e-3, weight=0.1, source=ENERGY)
_STEPS = replace(
    CIFAR, weight_decay=1e-4, batch_size=64, schedule="steps", milestones=(0.5, 0.75, 0.9), lr_end=0.0
)  # DOS; POEM for CIFAR-10
_GREG = replace(CIFAR, batch_size=64, weight_decay=1e-4, weight=0.1, penalty=1.0, lr_end=0.0)
_POEM = replace(_STEPS, objective="poem", weight=0.1, source=POEM)
_CONFIDENT = Recipe(
    objective="confident",
    epochs=100,
    lr=2e-4,
    weight=1.0,
    batch_size=64,
    weight_decay=0.0,
    optimiser="adam",
    schedule="steps",
    milestones=(0.6,),
    shift=0,
    source=CONFIDENT,
)

PAPERS: dict[str, Recipe] = {
    "ce-cifar": CIFAR,
    "oe-scratch-cifar": replace(_OE, source=f"{OE}, from scratch"),
    "oe-tune-cifar": replace(_OE, start="ce-cifar", epochs=10, lr=1e-3, source=f"{OE}, fine-tuned"),
    "energy-cifar-10": replace(_ENERGY, margin_id=-23.0, margin_aux=-5.0),
    "energy-cifar-100": replace(_ENERGY, margin_id=-27.0, margin_aux=-5.0),
    "gq-cifar": replace(
        CIFAR,
        objective="gq",
        epochs=200,
        batch_size=64,
        weight=1e-6,
        nesterov=False,
        schedule="cosine-epochs",
        lr_end=0.0,
        source="code of Jevnisek & Avidan, BMVC 2022; no normalisation",
    ),
    "greg-cifar": replace(
        _GREG,
        objective="greg",
        start="ce-cifar",
        epochs=20,
        lr=1e-3,
        source=f"{GREG}; its learning rate is not published, this one is that of {ENERGY}; {BY_PIXELS}",
    ),
    "greg+-cifar": replace(
        _GREG,
        objective="greg+",
        epochs=60,
        outliers=2,
        schedule="steps",
        milestones=(5 / 6,),
        source=f"{GREG}; the authors' code has Adam instead of SGD; {BY_PIXELS}",
    ),
    "poem-cifar-10": _POEM,
    "poem-cifar-100": replace(_POEM, epochs=200, milestones=(0.3, 0.6, 0.9)),
    "dos-cifar": replace(_STEPS, objective="dos", weight=1.0, source="code of arXiv:2306.02031"),
    "openmix-cifar": replace(
        CIFAR,
        objective="openmix",
        epochs=200,
        weight=1.0,
        nesterov=False,
        schedule="steps",
        milestones=(0.5, 0.75),
        lr_end=0.0,
        source="code of arXiv:2303.17093",
    ),
    "good-mnist": Recipe(
        objective="ibp-oe",
        model="plain",
        epochs=420,
        lr=5e-3,
        weight=0.3,
        eps=0.3,
        batch_size=128,
        weight_decay=0.0,
        nesterov=False,
        schedule="steps",
        milestones=(50 / 420, 100 / 420, 200 / 420, 300 / 420, 350 / 420),
        decay=0.2,
        shift=4,
        source="schedules in the code of arXiv:2007.08473; its ramps end earlier, its network is larger",
    ),
    "confident-cifar-10": replace(_CONFIDENT, weight=0.1),
    "confident-svhn": _CONFIDENT,
    "jem-cifar": Recipe(
        objective="jem",
        epochs=200,
        lr=1e-4,
        weight=1.0,
        weight_decay=0.0,
        optimiser="adam",
        schedule="steps",
        milestones=(0.8, 0.9),
        decay=0.3,
        warmup=1000,
        shift=4,
        flip=True,
        noise=0.015,
        source="code of arXiv:1912.03263; zeros in place of reflections around the crop",
    ),
}


def find_recipe(name: str, argument: str = "recipe") -> Recipe:
    """The recipe of that name; errors call it `argument`.

    Raises:
        ValueError: there is none.
    """
    known = {**RECIPES, **PAPERS}
    if name not in known:
        raise unknown(argument, name, [*known])
    return known[name]
