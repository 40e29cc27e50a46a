"""What networks are trained with: loss terms, and the sampling of auxiliary outliers."""

from typing import NamedTuple

from oodattack.objectives.certified_radius import certified_radius, gap_radius
from oodattack.objectives.confident import confident, discriminator_loss, generator_loss, uniform_divergence
from oodattack.objectives.dcgan import discriminator, generator
from oodattack.objectives.diverse_sampling import diverse
from oodattack.objectives.energy_margin import energy_margin, free_energy
from oodattack.objectives.energy_sampling import choose, epoch_pools
from oodattack.objectives.gradient_quotient import gradient_quotient
from oodattack.objectives.gradient_regularization import gradient_penalty
from oodattack.objectives.interval_exposure import interval_exposure
from oodattack.objectives.jem import joint_energy
from oodattack.objectives.langevin import langevin
from oodattack.objectives.openmix import mix, mixing_share, openmix
from oodattack.objectives.outlier_class import outlier_class, outlier_log_odds, outlier_probability
from oodattack.objectives.outlier_exposure import outlier_exposure
from oodattack.objectives.poem import (
    Posterior,
    boundary_sampler,
    boundary_scores,
    fit_posterior,
    sample_weights,
    weight_prior,
)
from oodattack.objectives.replay import Replay, langevin_samples, replay_state, restore_replay, start_replay
from oodattack.objectives.samplers import SAMPLERS, Pool, Sampler
from oodattack.objectives.score_gradient import score_gradient_penalty, uniform_gradient_penalty


class Row(NamedTuple):
    """A row of the table of objectives.

    Attributes:
        name: as in reports and on the command line.
        source: where the loss comes from, with its locator.
        description: the terms of the loss.
        needs_aux: whether auxiliary outliers are needed.
        extra_classes: outputs of the network beyond the ID classes: 1 with an outlier class, else 0.
        sampler: name in `SAMPLERS` of what chooses the outliers unless told otherwise; None without outliers, and for
            POEM, whose `boundary_sampler` is made anew each epoch.
    """

    name: str
    source: str
    description: str
    needs_aux: bool
    extra_classes: int
    sampler: str | None


OBJECTIVES = {
    row.name: row
    for row in (
        Row("ce", "baseline", "cross-entropy alone", False, 0, None),
        Row("gq", "Jevnisek & Avidan, Learning ODIN, BMVC 2022, eq. (7)", "ce + gradient quotient", False, 0, None),
        Row(
            "energy",
            "arXiv:2010.03759; arXiv:2404.12368, eq. (1)",
            "ce + squared hinges on the energy",
            True,
            0,
            "random",
        ),
        Row("greg", "arXiv:2404.12368, eq. (3)", "energy + norm of the energy's input gradient", True, 0, "random"),
        Row("greg+", "arXiv:2404.12368, Alg. 1", "greg, outliers sampled by cluster and energy", True, 0, "greg+"),
        Row("oe", "arXiv:1812.04606", "ce + cross-entropy to uniform on outliers", True, 0, "random"),
        Row(
            "ibp-oe",
            "arXiv:2007.08473, eq. (8)",
            "ce + largest bound of a logit difference on a ball around each outlier",
            True,
            0,
            "random",
        ),
        Row("openmix", "arXiv:2303.17093", "ce on K + 1 classes, also of ID mixed with outliers", True, 1, "random"),
        Row("dos", "arXiv:2306.02031", "ce on K + 1 classes, outliers sampled by cluster", True, 1, "dos"),
        Row("poem", "arXiv:2206.13687", "energy, outliers near a sampled linear boundary", True, 0, None),
        Row("confident", "arXiv:1711.09325, Alg. 1", "ce + divergence from uniform on GAN images", False, 0, None),
        Row("jem", "arXiv:1912.03263, Alg. 1", "ce + energy of ID less that of Langevin samples", False, 0, None),
    )
}

__all__ = [
    "OBJECTIVES",
    "SAMPLERS",
    "Pool",
    "Posterior",
    "Replay",
    "Row",
    "Sampler",
    "boundary_sampler",
    "boundary_scores",
    "certified_radius",
    "choose",
    "confident",
    "discriminator",
    "discriminator_loss",
    "diverse",
    "energy_margin",
    "epoch_pools",
    "fit_posterior",
    "free_energy",
    "gap_radius",
    "generator",
    "generator_loss",
    "gradient_penalty",
    "gradient_quotient",
    "interval_exposure",
    "joint_energy",
    "langevin",
    "langevin_samples",
    "mix",
    "mixing_share",
    "openmix",
    "outlier_class",
    "outlier_exposure",
    "outlier_log_odds",
    "outlier_probability",
    "replay_state",
    "restore_replay",
    "sample_weights",
    "score_gradient_penalty",
    "start_replay",
    "uniform_divergence",
    "uniform_gradient_penalty",
    "weight_prior",
]
