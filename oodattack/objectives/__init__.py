"""What networks are trained with: loss terms, and the sampling of auxiliary outliers."""

from typing import NamedTuple

from oodattack.objectives.energy_margin import energy_margin, free_energy
from oodattack.objectives.energy_sampling import choose, epoch_pools
from oodattack.objectives.gradient_quotient import gradient_quotient
from oodattack.objectives.gradient_regularization import gradient_penalty
from oodattack.objectives.outlier_exposure import outlier_exposure


class Row(NamedTuple):
    """A row of the table of objectives.

    Attributes:
        name: as in reports and on the command line.
        source: where the loss comes from, with its locator.
        description: the terms of the loss.
        needs_aux: whether auxiliary outliers are needed.
    """

    name: str
    source: str
    description: str
    needs_aux: bool


OBJECTIVES = {
    row.name: row
    for row in (
        Row("ce", "baseline", "cross-entropy alone", False),
        Row("gq", "Jevnisek & Avidan, Learning ODIN, BMVC 2022, eq. (7)", "ce + gradient quotient", False),
        Row("energy", "arXiv:2010.03759; arXiv:2404.12368, eq. (1)", "ce + squared hinges on the energy", True),
        Row("greg", "arXiv:2404.12368, eq. (3)", "energy + norm of the energy's input gradient", True),
        Row("greg+", "arXiv:2404.12368, Alg. 1", "greg, outliers sampled by cluster and energy", True),
        Row("oe", "arXiv:1812.04606", "ce + cross-entropy to uniform on outliers", True),
    )
}

__all__ = [
    "OBJECTIVES",
    "Row",
    "choose",
    "energy_margin",
    "epoch_pools",
    "free_energy",
    "gradient_penalty",
    "gradient_quotient",
    "outlier_exposure",
]
