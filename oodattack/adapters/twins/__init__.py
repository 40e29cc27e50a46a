"""What attacks follow in place of pytorch-ood scores that have no gradient or one that saturates.

All others have a gradient, of their own or once their graph is kept: see `oodattack.keep_graph`.
"""

from collections.abc import Callable
from typing import Any

from oodattack.adapters.twins.coverage import coverage
from oodattack.adapters.twins.dropout import dropout_odds
from oodattack.adapters.twins.entropy import entropy, generalised_entropy
from oodattack.adapters.twins.inner import rectified
from oodattack.adapters.twins.kl_matching import kl_matching
from oodattack.adapters.twins.knn import nearest
from oodattack.adapters.twins.mahalanobis_odin import preprocessed_distance
from oodattack.adapters.twins.openmax import openmax
from oodattack.adapters.twins.rank_one import rank_one
from oodattack.adapters.twins.regret import regret
from oodattack.adapters.twins.softmax import of_maximum, of_odin, of_similarities
from oodattack.adapters.twins.weighted_energy import weighted_energy
from oodattack.detector import Surrogate

TWINS: dict[str, Callable[[Any], Surrogate | None]] = {  # class of pytorch-ood -> its twin
    "MaxSoftmax": of_maximum,
    "TemperatureScaling": of_maximum,
    "ODIN": of_odin,
    "MCM": of_similarities,
    "Entropy": entropy,
    "GEN": generalised_entropy,
    "KLMatching": kl_matching,
    "WeightedEBO": weighted_energy,
    "MCD": dropout_odds,
    "ASH": rectified,
    "DICE": rectified,
    "LTS": rectified,
    "ReAct": rectified,
    "SCALE": rectified,
    "VRA": rectified,
    "RankFeat": rank_one,
    "PNML": regret,
    "KNN": nearest,
    "OpenMax": openmax,
    "MahalanobisODIN": preprocessed_distance,
    "NACUE": coverage,
}
