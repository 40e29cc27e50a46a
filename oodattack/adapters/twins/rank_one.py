"""RankFeat through power iterations: the derivative of an SVD is infinite where channels are dead."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oodattack.adapters.behind import Output
from oodattack.adapters.twins.inner import UNSATURATED
from oodattack.detector import Surrogate
from oodattack.detectors.rankfeat import without_rank_one


def rank_one(stock: Any) -> Surrogate:
    """RankFeat: a score of the logits after X - s_1 u_1 v_1^T."""
    _, score, exact = UNSATURATED.get(getattr(stock.detector, "__qualname__", ""), ("", stock.detector, True))
    return Surrogate("own score by power iterations", WithoutRankOne(stock, score), exact=exact)


@dataclass(frozen=True)
class WithoutRankOne:
    """The score with a derivative of the first singular vectors alone."""

    stock: Any
    score: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        maps = Output(self.stock, ("backbone",))(x)
        found: Tensor = self.score(self.stock.head(without_rank_one(maps, exact=True)))
        return found
