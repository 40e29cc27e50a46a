"""Detectors that change features and leave the score to another function: without the saturation of that function."""

from collections.abc import Callable
from copy import copy
from typing import Any

from torch import Tensor

from oodattack.adapters.twins.entropy import of_entropy
from oodattack.detector import Surrogate
from oodattack.detectors.msp import log_odds
from oodattack.keep_graph import Kept

UNSATURATED: dict[str, tuple[str, Callable[[Tensor], Tensor], bool]] = {  # score of the library -> what follows it
    "MaxSoftmax.score": ("log-odds of the largest softmax, graph kept", log_odds, True),
    "Entropy.score": ("logarithm of the entropy, graph kept", of_entropy, False),
}


def rectified(stock: Any) -> Surrogate | None:
    """ASH, DICE, LTS, ReAct, SCALE and VRA with a score that saturates; None with one that does not.

    The detector is copied, not what it holds, and given a score that is an increasing function of its own.
    """
    found = UNSATURATED.get(getattr(stock.detector, "__qualname__", ""))
    if found is None:
        return None
    words, score, exact = found
    twin = copy(stock)
    twin.detector = score
    return Surrogate(words, Kept(twin), exact=exact)
