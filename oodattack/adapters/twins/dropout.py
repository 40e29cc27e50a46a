"""MCD in logarithms: means and variances of probabilities that keep apart what float32 rounds to 0 or 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from oodattack.adapters.behind import placed
from oodattack.detector import Surrogate
from oodattack.detectors.msp import log_odds


def dropout_odds(stock: Any) -> Surrogate:
    """MCD: mean over classes of the variance over passes, or minus the largest mean."""
    words = "logarithm of the variance over passes" if stock.mode == "var" else "log-odds of the mean over passes"
    return Surrogate(words, Passes(stock), exact=True)


@dataclass(frozen=True)
class Passes:
    """An increasing function of the score, with dropout masks of its own at every call."""

    stock: Any

    def __call__(self, x: Tensor) -> Tensor:
        """Shape (B,)."""
        stock, x = self.stock, placed(self.stock, x)
        with dropping(stock.model, stock.batch_norm):
            log_p = torch.stack([stock.model(x).double().log_softmax(dim=1) for _ in range(stock.n_samples)])
        return (log_variance if stock.mode == "var" else mean_odds)(log_p).to(x.dtype)


def mean_odds(log_p: Tensor) -> Tensor:
    """log((1 - m) / m) of the largest mean probability m.

    Args:
        log_p: log-probabilities, shape (passes, B, K).
    """
    return log_odds(log_p.logsumexp(dim=0))


def log_variance(log_p: Tensor) -> Tensor:
    """log of the sum over classes of the variance over passes; the likeliest class by one minus its probability.

    Args:
        log_p: log-probabilities, shape (passes, B, K), float64.
    """
    p = log_p.exp()
    top = one_hot(p.mean(dim=0).argmax(dim=1), p.shape[2]).bool()
    rest = p.masked_fill(top, 0.0)
    kept = torch.where(top, rest.sum(dim=2, keepdim=True), rest)  # var(1 - p) = var(p)
    return kept.var(dim=0).sum(dim=1).clamp(min=torch.finfo(p.dtype).tiny).log()


@contextmanager
def dropping(model: nn.Module, norms_too: bool) -> Iterator[None]:
    """Training mode within, but for the norms if `norms_too`, as the library switches; all modes back afterwards."""
    modes = {module: module.training for module in model.modules()}
    if not model.training:
        model.train()
        for module in modes:
            if norms_too and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.train(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
