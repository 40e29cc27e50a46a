"""The table of detectors that the command line builds by name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from oodattack.detectors.auto_encoder import fit_auto_encoder
from oodattack.detectors.ccu import fit_ccu
from oodattack.detectors.confident import Confident
from oodattack.detectors.dice import fit_dice
from oodattack.detectors.energy import Energy
from oodattack.detectors.ensemble import DeepEnsemble
from oodattack.detectors.fit import Fit
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.glow import fit_glow
from oodattack.detectors.glow_png import GlowPNG
from oodattack.detectors.gradnorm import GradNorm
from oodattack.detectors.gram import fit_gram
from oodattack.detectors.jem import JemGradient, JemPx, JemPy
from oodattack.detectors.knn import fit_knn
from oodattack.detectors.layer_weights import fit_layer_weights
from oodattack.detectors.line import fit_line
from oodattack.detectors.mahalanobis import fit_mahalanobis
from oodattack.detectors.mahalanobis_layers import fit_mahalanobis_layers
from oodattack.detectors.max_logit import MaxLogit
from oodattack.detectors.mood import fit_mood
from oodattack.detectors.msp import MSP
from oodattack.detectors.odin import ODIN
from oodattack.detectors.odin_grid import fit_odin
from oodattack.detectors.oe_score import OEScore
from oodattack.detectors.outlier_class import OutlierClass
from oodattack.detectors.pnml import fit_pnml
from oodattack.detectors.rankfeat import RankFeat
from oodattack.detectors.react import fit_react
from oodattack.detectors.sal_agg import fit_sal_agg, fit_sal_agg_mls
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.vim import fit_vim
from oodattack.detectors.weighted_sum import fit_weighted_sum


class Row(NamedTuple):
    """A row of the table: how to build a detector with its paper's defaults.

    Attributes:
        name: as on the command line.
        source: paper and equation.
        description: what the score is.
        build: (classifier, what to fit on) -> detector. Takes a list of classifiers where `several`; where `bare`, the
            first argument is not looked at, and None will do.
        fits: whether `build` looks at the training images.
        labels: whether it needs their labels.
        known: whether ID validation images, where there are some, take the place of the training images.
        tunes: whether it needs OOD validation images.
        several: whether it is made of several networks.
        bare: whether it stands on no network: it looks at the images alone.
        tuned_from: the detector that `build` tunes, by which what it gives is named, where that is not `name`.
    """

    name: str
    source: str
    description: str
    build: Callable[[Any, Fit], nn.Module]
    fits: bool = False
    labels: bool = False
    known: bool = False
    tunes: bool = False
    several: bool = False
    bare: bool = False
    tuned_from: str = ""

    def on(self, nets: Sequence[Any], fit: Fit) -> nn.Module:
        """The detector on these networks, or on the first of them where it stands on one."""
        return self.build(nets if self.several else next(iter(nets), None), fit)


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
            labels=True,
        ),
        Row(
            "mahalanobis-layers",
            "arXiv:1807.03888, Alg. 1",
            "mean of that distance over layers, after a step of 0.0014 each",
            lambda net, fit: fit_mahalanobis_layers(net, fit.x, fit.y),
            fits=True,
            labels=True,
        ),
        Row(
            "oe-score",
            "arXiv:1812.04606; arXiv:2009.08016, appendix E.1",
            "mean logit minus logsumexp",
            lambda net, _: OEScore(net),
        ),
        Row(
            "outlier-class",
            "arXiv:2306.02031 and arXiv:2303.17093; log-odds in place of authors' code, p_K",
            "log-odds of the last class, of a network trained with one for outliers",
            lambda net, _: OutlierClass(net),
        ),
        Row(
            "odin-tuned",
            "arXiv:1706.02690, eq. (1)-(2)",
            "ODIN with T and step chosen by FPR95 on validation images",
            lambda net, fit: fit_odin(net, fit.known(), fit.strange()),
            fits=True,
            known=True,
            tunes=True,
            tuned_from="odin",
        ),
        Row(
            "mahalanobis-weighted",
            "arXiv:1807.03888, feature ensemble; arXiv:2009.08016, appendix D.1",
            "that distance with weights of a logistic regression on validation images",
            lambda net, fit: fit_layer_weights(fit_mahalanobis_layers(net, fit.x, fit.y), fit.known(), fit.strange()),
            fits=True,
            labels=True,
            tunes=True,
            tuned_from="mahalanobis-layers",
        ),
        Row(
            "knn",
            "arXiv:2204.06507; authors' code",
            "squared distance of unit features to the 50th neighbour",
            lambda net, fit: fit_knn(net, fit.x),
            fits=True,
        ),
        Row(
            "vim",
            "arXiv:2203.10807; authors' code",
            "scaled residual of the features minus logsumexp of the logits",
            lambda net, fit: fit_vim(net, fit.x),
            fits=True,
        ),
        Row(
            "pnml",
            "arXiv:2110.09246; authors' code",
            "regret of the last layer",
            lambda net, fit: fit_pnml(net, fit.x),
            fits=True,
        ),
        Row(
            "ensemble",
            "arXiv:1612.01474; arXiv:2009.08016, appendix F.1",
            "entropy of the mean softmax of several networks",
            lambda nets, _: DeepEnsemble(nets),
            several=True,
        ),
        Row(
            "confident",
            "arXiv:1711.09325; arXiv:2009.08016, appendix G",
            "1 - max softmax, matched in the convolutional features",
            lambda net, _: Confident(net),
        ),
        Row(
            "jem-px",
            "arXiv:1912.03263; arXiv:2009.08016, appendix J.1, score (1)",
            "-log p(x) of the logits as an energy model",
            lambda net, _: JemPx(net),
        ),
        Row(
            "jem-py",
            "arXiv:1912.03263; arXiv:2009.08016, appendix J.1, score (2)",
            "1 - max p(y|x)",
            lambda net, _: JemPy(net),
        ),
        Row(
            "jem-gradient",
            "arXiv:1912.03263; arXiv:2009.08016, appendix J.1, score (3)",
            "norm of the gradient of log p(x) at the image",
            lambda net, _: JemGradient(net),
        ),
        Row(
            "mood",
            "arXiv:2104.14726; authors' code, adjusted energy",
            "energy of the exit that the image's complexity chooses; for networks with exits",
            lambda net, fit: fit_mood(net, fit.x),
            fits=True,
        ),
        Row(
            "ccu",
            "arXiv:1909.12180; authors' code, max log p",
            "confidence times an ID density of images, against a density of noise",
            lambda net, fit: fit_ccu(net, fit.x, seed=0),
            fits=True,
        ),
        Row(
            "auto-encoder",
            "arXiv:2009.08016, section 2.4",
            "distance of the image from its reconstruction",
            lambda _, fit: fit_auto_encoder(fit.x, seed=0),
            fits=True,
            bare=True,
        ),
        Row(
            "glow",
            "arXiv:2009.08016, section 2.3; flow of arXiv:1807.03039",
            "negative log-likelihood of a flow; needs the extra `flows`",
            lambda _, fit: fit_glow(fit.x, seed=0),
            fits=True,
            bare=True,
        ),
        Row(
            "glow-png",
            "arXiv:1909.11480; arXiv:2009.08016, appendix I.1",
            "that likelihood minus the length of the PNG file",
            lambda _, fit: GlowPNG(fit_glow(fit.x, seed=0).flow),
            fits=True,
            bare=True,
        ),
        Row(
            "sal-agg",
            "XAI Saliency Maps Can Be Used for OOD Detection, sections 4 and 5.1",
            "norm of the Grad-CAM map",
            lambda net, fit: fit_sal_agg(net, fit.known(), fit.strange()),
            fits=True,
            known=True,
            tunes=True,
        ),
        Row(
            "sal-agg+mls",
            "XAI Saliency Maps Can Be Used for OOD Detection, eq. (6)",
            "norm of the guided backpropagation map and max logit, each over its deviation",
            lambda net, fit: fit_sal_agg_mls(net, fit.known(), fit.strange()),
            fits=True,
            known=True,
            tunes=True,
        ),
        Row(
            "gaia-z",
            "arXiv:2311.09620; authors' code, cal_zero",
            "density of non-zero gradients at norm layers",
            lambda net, _: GaiaZ(net),
        ),
        Row(
            "gaia-a",
            "arXiv:2311.09620, section 4.1",
            "channel averages of gradients at late norms",
            lambda net, _: GaiaA(net),
        ),
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
            "sum of z-scores, as eq. (2) of XAI Saliency Maps Can Be Used for OOD Detection",
            "S&I-Z and max logit as one detector",
            lambda net, fit: fit_weighted_sum({"si-z": SIZ(net), "max-logit": MaxLogit(net)}, fit.known()),
            fits=True,
            known=True,
        ),
        Row(
            "gradnorm",
            "arXiv:2110.00218; after OpenOOD v1.5",
            "minus the l1 norm of the head's gradient towards uniform",
            lambda net, _: GradNorm(net),
        ),
        Row(
            "react",
            "arXiv:2111.12797; after OpenOOD v1.5",
            "energy of features clipped at their 90th percentile",
            lambda net, fit: fit_react(net, fit.x),
            fits=True,
        ),
        Row(
            "dice",
            "arXiv:2111.09805; after OpenOOD v1.5",
            "energy of the tenth of the head's weights that contribute most",
            lambda net, fit: fit_dice(net, fit.x),
            fits=True,
        ),
        Row(
            "line",
            "arXiv:2303.13995; authors' code",
            "energy of a head pruned for the predicted class",
            lambda net, fit: fit_line(net, fit.x, fit.y),
            fits=True,
            labels=True,
        ),
        Row(
            "rankfeat",
            "arXiv:2209.08590; after OpenOOD v1.5",
            "energy without the first singular component of the last stage",
            lambda net, _: RankFeat(net),
        ),
        Row(
            "gram",
            "arXiv:1912.12510; arXiv:2009.08016, appendix H.1",
            "deviation of Gram sums from their ID ranges, p = 1..5",
            lambda net, fit: fit_gram(net, fit.x),
            fits=True,
        ),
    )
}
