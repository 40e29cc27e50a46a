"""Detectors, one method a file, and the table of those that the command line can build by name."""

from oodattack.detectors.auto_encoder import Reconstruction, fit_auto_encoder
from oodattack.detectors.ccu import CCU, fit_ccu
from oodattack.detectors.confident import Confident
from oodattack.detectors.dice import DICE, fit_dice
from oodattack.detectors.energy import Energy
from oodattack.detectors.ensemble import DeepEnsemble
from oodattack.detectors.fit import Fit
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.glow import GlowNLL, fit_glow
from oodattack.detectors.glow_png import GlowPNG
from oodattack.detectors.gradnorm import GradNorm
from oodattack.detectors.gram import Gram, fit_gram
from oodattack.detectors.jem import JemGradient, JemPx, JemPy
from oodattack.detectors.knn import KNN, fit_knn
from oodattack.detectors.layer_weights import fit_layer_weights
from oodattack.detectors.line import LINe, fit_line
from oodattack.detectors.mahalanobis import Mahalanobis, fit_mahalanobis
from oodattack.detectors.mahalanobis_layers import MahalanobisLayers, fit_mahalanobis_layers
from oodattack.detectors.max_logit import MaxLogit
from oodattack.detectors.mood import MOOD, fit_mood
from oodattack.detectors.msp import MSP
from oodattack.detectors.odin import ODIN
from oodattack.detectors.odin_grid import fit_odin, odin_grid
from oodattack.detectors.oe_score import OEScore
from oodattack.detectors.outlier_class import OutlierClass
from oodattack.detectors.png_length import PngLength
from oodattack.detectors.pnml import PNML, fit_pnml
from oodattack.detectors.rankfeat import RankFeat
from oodattack.detectors.react import ReAct, fit_react
from oodattack.detectors.sal_agg import SalAgg, SalAggMLS, fit_sal_agg, fit_sal_agg_mls
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.table import DETECTORS, Row
from oodattack.detectors.vim import ViM, fit_vim
from oodattack.detectors.weighted_sum import WeightedSum, fit_weighted_sum

__all__ = [
    "CCU",
    "DETECTORS",
    "DICE",
    "KNN",
    "MOOD",
    "MSP",
    "ODIN",
    "PNML",
    "SIA",
    "SIZ",
    "Confident",
    "DeepEnsemble",
    "Energy",
    "Fit",
    "GaiaA",
    "GaiaZ",
    "GlowNLL",
    "GlowPNG",
    "GradNorm",
    "Gram",
    "JemGradient",
    "JemPx",
    "JemPy",
    "LINe",
    "Mahalanobis",
    "MahalanobisLayers",
    "MaxLogit",
    "OEScore",
    "OutlierClass",
    "PngLength",
    "RankFeat",
    "ReAct",
    "Reconstruction",
    "Row",
    "SalAgg",
    "SalAggMLS",
    "ViM",
    "WeightedSum",
    "fit_auto_encoder",
    "fit_ccu",
    "fit_dice",
    "fit_glow",
    "fit_gram",
    "fit_knn",
    "fit_layer_weights",
    "fit_line",
    "fit_mahalanobis",
    "fit_mahalanobis_layers",
    "fit_mood",
    "fit_odin",
    "fit_pnml",
    "fit_react",
    "fit_sal_agg",
    "fit_sal_agg_mls",
    "fit_vim",
    "fit_weighted_sum",
    "odin_grid",
]
