"""PNML by the logarithm of its regret, which does not round to 0 on confident inputs."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from oodattack.adapters.behind import Output
from oodattack.detector import Surrogate
from oodattack.detectors.pnml import log_regret


def regret(stock: Any) -> Surrogate:
    """PNML: log sum_k p_k / (p_k + (1 - p_k) p_k^g) over log K; the library cuts probabilities off at `eps`."""
    return Surrogate("log(exp(regret) - 1)", Regret(stock))


@dataclass(frozen=True)
class Regret:
    """log(exp(regret) - 1), an increasing function of the regret."""

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        stock = self.stock
        z = normalize(Output(stock, ("encoder",))(x).to(stock._feature_projector), dim=1)
        projection = ((z @ stock._feature_projector) * z).sum(dim=1).clamp(min=0)
        return log_regret(stock.head(z), projection)
