"""Page: training objectives, samplers of outliers and recipes."""

from collections.abc import Iterable
from typing import Any

from docs.pages.docstrings import parsed
from docs.pages.entry import entries, facts
from docs.pages.markdown import Anchors, link, page, prose, table
from docs.pages.source import paper_of
from oodattack import objectives as room
from oodattack.job.recipe import recipes
from oodattack.objectives import OBJECTIVES, SAMPLERS, Row
from oodattack.train import Recipe

INTRODUCTION = """# Training objectives

`oodattack train --objective NAME --out FILE.safetensors` trains a network with one of them; `energy@greg` is the
energy score on the network of the embedded default that was trained with GReg. Each is a function, to be used in any
training loop."""
# what is specific to each; cross-entropy is torch's
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "ce": (),
    "gq": ("gradient_quotient",),
    "energy": ("free_energy", "energy_margin"),
    "greg": ("gradient_penalty",),
    "greg+": ("epoch_pools", "choose"),
    "ibp-oe": ("interval_exposure",),
    "oe": ("outlier_exposure", "uniform_gradient_penalty"),
    "openmix": ("mixing_share", "mix", "openmix"),
    "dos": ("outlier_class", "outlier_log_odds", "outlier_probability", "diverse"),
    "poem": ("weight_prior", "fit_posterior", "sample_weights", "boundary_scores", "boundary_sampler"),
    "confident": ("confident", "uniform_divergence", "generator_loss", "discriminator_loss"),
    "jem": ("joint_energy", "langevin", "start_replay", "langevin_samples"),
}
MORE = ("score_gradient_penalty", "certified_radius", "gap_radius")


def text() -> str:
    """The page."""
    anchors = Anchors()
    shown: set[object] = set()
    anchors.of("Training objectives")
    places = {name: anchors.of(name) for name in OBJECTIVES}
    overview = table(
        ["objective", "loss", "outliers", "source"],
        [
            (link(f"`{r.name}`", f"#{places[r.name]}"), prose(r.description), outliers(r), prose(r.source))
            for r in OBJECTIVES.values()
        ],
    )
    parts = [part for row in OBJECTIVES.values() for part in one(row, shown)]
    more = [
        "## More",
        "Not an objective by itself.",
        *entries([getattr(room, name) for name in MORE], "oodattack.objectives", shown),
    ]
    return page(INTRODUCTION, overview, *parts, *more, *samplers(), *all_recipes())


def outliers(row: Row) -> str:
    """Which outliers it needs, in words."""
    if not row.needs_aux:
        return "none"
    return f"sampler `{row.sampler}`" if row.sampler else "its own sampler"


def one(row: Row, shown: set[Any]) -> Iterable[str]:
    """All about one objective."""
    things = [getattr(room, name) for name in FUNCTIONS.get(row.name, ())]
    yield f"## {row.name}"
    extra = "the ID classes and one for outliers" if row.extra_classes else ""
    paper = paper_of(things[0]) if things else ""
    yield facts({"loss": row.description, "method": paper, "source": row.source, "outputs": extra})
    if things:
        yield from entries(things, "oodattack.objectives", shown)


def samplers() -> list[str]:
    """The table of samplers."""
    rows = [(f"`{row.name}`", prose(row.description), prose(row.source)) for row in SAMPLERS.values()]
    return ["## Samplers", "`--sampler` says which outliers a step sees.", table(["sampler", "takes", "source"], rows)]


def all_recipes() -> list[str]:
    """The table of recipes, and their fields."""
    rows = [(f"`{row['name']}`", prose(row["description"]), prose(row["source"])) for row in recipes()]
    fields = [(f"`{name}`", prose(words)) for name, words in parsed(Recipe.__doc__).sections["Attributes"]]
    words = "A recipe is an objective with all numbers of its training; `--recipe NAME` takes one, options change some."
    return ["## Recipes", words, table(["recipe", "", "source"], rows), "### Fields", table(["field", ""], fields)]
