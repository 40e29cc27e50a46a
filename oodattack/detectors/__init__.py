"""Detectors, one method a file, and the table of those that the command line can build by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from oodattack.detectors.dice import DICE, fit_dice
from oodattack.detectors.energy import Energy
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.gradnorm import GradNorm
from oodattack.detectors.gram import Gram, fit_gram
from oodattack.detectors.line import LINe, fit_line
from oodattack.detectors.mahalanobis import Mahalanobis, fit_mahalanobis
from oodattack.detectors.mahalanobis_layers import MahalanobisLayers, fit_mahalanobis_layers
from oodattack.detectors.max_logit import MaxLogit
from oodattack.detectors.msp import MSP
from oodattack.detectors.odin import ODIN
from oodattack.detectors.png_length import PngLength
from oodattack.detectors.rankfeat import RankFeat
from oodattack.detectors.react import ReAct, fit_react
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.weighted_sum import WeightedSum, fit_weighted_sum


class Fit(NamedTuple):
    """What a detector may be fitted on.

    Attributes:
        x: ID training images, shape (N, C, H, W), in [0, 1].
        y: their labels, shape (N,).
        ood: OOD validation images, shape (M, C, H, W), or None where there are none.
    """

    x: Tensor
    y: Tensor
    ood: Tensor | None = None


class Row(NamedTuple):
    """A row of the table: how to build a detector with its paper's defaults.

    Attributes:
        name: as on the command line.
        source: paper and equation.
        description: what the score is.
        build: (classifier, what to fit on) -> detector; of several networks, a list of classifiers.
        fits: whether `build` looks at the training images.
        tunes: whether it needs OOD validation images.
        several: whether it is made of several networks.
    """

    name: str
    source: str
    description: str
    build: Callable[[Any, Fit], nn.Module]
    fits: bool = False
    tunes: bool = False
    several: bool = False


DETECTORS = {
    row.name: row
    for row in (
        Row("msp", "arXiv:1610.02136, section 2", "1 - max softmax", lambda net, _: MSP(net)),
        Row("max-logit", "arXiv:1911.11132, section 3", "-max logit", lambda net, _: MaxLogit(net)),
        Row("energy", "arXiv:2010.03759, eq. (4)", "-logsumexp of the logits", lambda net, _: Energy(net)),
        Row("odin", "arXiv:1706.02690, eq. (1)-(2)", "MSP at T = 1000 after a step of .0014", lambda net, _: ODIN(net)),
        Row(
            "mahalanobis",
            "arXiv:1807.03888, eq. (1)-(2)",
            "squared distance of penultimate features to the nearest class",
            lambda net, fit: fit_mahalanobis(net, fit.x, fit.y),
            fits=True,
        ),
        Row(
            "mahalanobis-layers",
            "arXiv:1807.03888, Alg. 1",
            "mean of that distance over layers, after a step of 0.0014 each",
            lambda net, fit: fit_mahalanobis_layers(net, fit.x, fit.y),
            fits=True,
        ),
        Row("gaia-z", "arXiv:2311.09620", "density of non-zero gradients at norm layers", lambda net, _: GaiaZ(net)),
        Row("gaia-a", "arXiv:2311.09620", "channel averages of gradients at late norms", lambda net, _: GaiaA(net)),
        Row(
            "si-z",
            "Splitting & Integrating, ICML 2025, Alg. 1",
            "GAIA-Z over T = 2 steps a layer",
            lambda net, _: SIZ(net),
        ),
        Row(
            "si-a",
            "Splitting & Integrating, ICML 2025, eq. (12)-(14)",
            "GAIA-A over T = 2 steps a layer on 90 % of the features",
            lambda net, _: SIA(net),
        ),
        Row(
            "si-z+max-logit",
            "sum of z-scores",
            "S&I-Z and max logit as one detector",
            lambda net, fit: fit_weighted_sum({"si-z": SIZ(net), "max-logit": MaxLogit(net)}, fit.x),
            fits=True,
        ),
        Row(
            "gradnorm",
            "arXiv:2110.00218",
            "minus the l1 norm of the head's gradient towards uniform",
            lambda net, _: GradNorm(net),
        ),
        Row(
            "react",
            "arXiv:2111.12797",
            "energy of features clipped at their 90th percentile",
            lambda net, fit: fit_react(net, fit.x),
            fits=True,
        ),
        Row(
            "dice",
            "arXiv:2111.09805",
            "energy of the tenth of the head's weights that contribute most",
            lambda net, fit: fit_dice(net, fit.x),
            fits=True,
        ),
        Row(
            "line",
            "arXiv:2303.13995",
            "energy of a head pruned for the predicted class",
            lambda net, fit: fit_line(net, fit.x, fit.y),
            fits=True,
        ),
        Row(
            "rankfeat",
            "arXiv:2209.08590",
            "energy without the first singular component of the last stage",
            lambda net, _: RankFeat(net),
        ),
        Row(
            "gram",
            "arXiv:1912.12510",
            "deviation of Gram sums from their ID ranges, p = 1..5",
            lambda net, fit: fit_gram(net, fit.x),
            fits=True,
        ),
    )
}

__all__ = [
    "DETECTORS",
    "DICE",
    "MSP",
    "ODIN",
    "SIA",
    "SIZ",
    "Energy",
    "GaiaA",
    "GaiaZ",
    "GradNorm",
    "Gram",
    "LINe",
    "Mahalanobis",
    "MahalanobisLayers",
    "MaxLogit",
    "PngLength",
    "RankFeat",
    "ReAct",
    "WeightedSum",
    "fit_dice",
    "fit_gram",
    "fit_line",
    "fit_mahalanobis",
    "fit_mahalanobis_layers",
    "fit_react",
    "fit_weighted_sum",
]
