"""Log-odds in place of the largest softmax, which rounds to 1 and has no slope there: an increasing function of it."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from oodattack.adapters.behind import Output, placed
from oodattack.detector import Surrogate
from oodattack.detectors.msp import LogOdds, log_odds_surrogate


def of_maximum(stock: Any) -> Surrogate:
    """MaxSoftmax and TemperatureScaling: -max_k softmax_k(f(x) / t)."""
    return log_odds_surrogate(Output(stock), temperature=torch.as_tensor(stock.t).item())


def of_odin(stock: Any) -> Surrogate:
    """ODIN: -max_k softmax_k(f(x') / T) of the preprocessed input."""
    words = f"log-odds at temperature {stock.temperature:g}, straight through the preprocessing"
    return Surrogate(words, LogOdds(Preprocessed(stock), stock.temperature), exact=True)


def of_similarities(stock: Any) -> Surrogate:
    """MCM: -max_k softmax_k of cosine similarities over the temperature."""
    odds = LogOdds(Similarities(stock), stock.temperature)
    return Surrogate("log-odds of the largest softmax of similarities", odds, exact=True)


@dataclass(frozen=True)
class Preprocessed:
    """Logits of the library's preprocessed input, whose step is a constant to the gradient, as its sign is."""

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Logits, shape (B, K)."""
        x, stock = placed(self.stock, x), self.stock
        keys = ("eps", "criterion", "temperature", "norm_std")
        step = import_module(type(stock).__module__).odin_preprocessing
        x_hat = step(model=stock.model, x=x, **{key: getattr(stock, key) for key in keys})
        logits: Tensor = stock.model(x + (x_hat - x).detach())
        return logits.to(x.dtype)  # at T = 1000 the differences of bfloat16 are lost in what is added to them


@dataclass(frozen=True)
class Similarities:
    """Cosine similarities of features with the embeddings of the class names."""

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B, K), in [-1, 1]."""
        z = normalize(self.stock.encoder(x).float(), dim=-1)
        return z @ normalize(self.stock.text_embeddings.to(z.device).float(), dim=-1).T
