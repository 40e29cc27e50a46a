"""GOOD within the loop: confidence bounded on balls around outliers that grow. arXiv:2007.08473."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from oodattack import objectives
from oodattack.classifier import Classifier, inner
from oodattack.objectives.interval_pass import IntervalPass
from oodattack.train.losses import Batch, Logits, Terms
from oodattack.train.recipe import Recipe

RAMP = 0.5  # share of the steps in which radius and weight rise from 0, linearly


class CertifiedExposure:
    """Cross-entropy on ID images and interval exposure on outliers.

    Args:
        recipe: gives weight and radius.
        network: in training; its norms see ID images and outliers together.
        steps: of the whole run.

    Raises:
        ValueError: a network that intervals do not go through.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, steps: int) -> None:
        self.recipe, self.steps, self.step = recipe, max(1, round(RAMP * steps)), 0
        self.intervals = IntervalPass(inner(network))
        self.scale = (network.mean, network.std) if isinstance(network, Classifier) else None

    def __call__(self, net: Logits, batch: Batch, generator: Generator) -> tuple[Terms, Terms]:
        """Terms of the loss, and nothing else to show."""
        if batch.aux is None:
            raise ValueError("`aux` must hold auxiliary outliers for ibp-oe, got none. Pass some.")
        logits = net(torch.cat([batch.x, batch.aux]))[: len(batch.x)]
        grown = min(1.0, (self.step + 1) / self.steps)
        self.step += 1
        eps = grown * self.recipe.eps
        ends = ((batch.aux + shift).clamp(0, 1) for shift in (-eps, eps))
        low, high = (self._normalised(end) for end in ends)
        exposure = objectives.interval_exposure(self.intervals.differences(low, high))
        return {"ce": cross_entropy(logits, batch.y), "exposure": grown * self.recipe.weight * exposure}, {}

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.scale is None else (x - self.scale[0]) / self.scale[1]

    def state_dict(self) -> dict[str, Any]:
        """Steps done, on which the radius depends."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.step = int(state["step"])
