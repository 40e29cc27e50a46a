"""The outliers of POEM: those near a boundary that is drawn anew for each epoch. arXiv:2206.13687."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from oodattack import objectives
from oodattack.objectives import Posterior
from oodattack.train.outliers import CANDIDATES, look
from oodattack.train.recipe import Recipe
from oodattack.train.training_set import TrainingSet

TARGET, PRIOR_VARIANCE, NOISE_VARIANCE = 3.0, 20.0, 0.5  # of the regression, authors' code
REMEMBERED = 4  # epochs whose outliers the regression is fitted on, authors' code


class Boundary:
    """Before each epoch, a draw of the regression's weights picks as many outliers as the epoch's steps use.

    Where that would leave less than `CANDIDATES` to choose each from, it picks fewer, which the steps use in turn.

    Args:
        recipe: gives the outliers a step.
        data: ID and auxiliary images; there must be outliers.
        steps: in an epoch.

    Differs from the authors' code: the regression sees all features through the present network, theirs those of
    earlier outliers as they were; every auxiliary image is a candidate; the targets have no common offset. Differs
    from the paper: of few outliers a share is used several times an epoch; it has enough to use each once.
    """

    def __init__(self, recipe: Recipe, data: TrainingSet, *, steps: int) -> None:
        if data.aux is None:
            raise ValueError("`aux` must hold auxiliary outliers for poem, got none. Pass some.")
        self.data, self.aux, self.steps = data, data.aux, steps
        self.each = recipe.batch_size * recipe.outliers
        self.past: list[Tensor] = []  # rows chosen in earlier epochs, latest last
        self.rows = torch.empty(0, dtype=torch.int64)

    def __call__(self, network: nn.Module, epoch: int, step: int, generator: Generator) -> Tensor:
        """The rows of a step; the first step of an epoch chooses for all of it."""
        if step == 0:
            self.begin(network, generator)
        return self.rows[(step * self.each + torch.arange(self.each)) % len(self.rows)]

    def begin(self, network: nn.Module, generator: Generator) -> None:
        """Fit the regression, draw its weights, take the candidates nearest to the boundary in random order."""
        pool = look(network, self.aux, torch.arange(len(self.aux)))
        weights = objectives.sample_weights(self.posterior(network, pool.features), generator)
        n = max(1, min(len(self.aux) // CANDIDATES, self.steps * self.each))
        chosen = objectives.boundary_sampler(weights)(pool, n, 0).cpu()
        self.rows = chosen[torch.randperm(n, generator=generator)]
        self.past = [*self.past, chosen][-REMEMBERED:]

    def posterior(self, network: nn.Module, features_aux: Tensor) -> Posterior:
        """What is known of the weights: the prior in the first epoch, then a fit with ID and outliers equally heavy."""
        if not self.past:
            return objectives.weight_prior(features_aux, prior_variance=PRIOR_VARIANCE)
        features = look(network, self.data.x, torch.arange(len(self.data.x))).features
        return objectives.fit_posterior(
            features.repeat(len(self.past), 1),
            features_aux[torch.cat(self.past).to(features_aux.device)],
            target=TARGET,
            prior_variance=PRIOR_VARIANCE,
            noise_variance=NOISE_VARIANCE,
            covariance="code",
        )

    def state_dict(self) -> dict[str, Any]:
        """Rows of past epochs and of the present one."""
        return {"past": self.past, "rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the rows of `state_dict`."""
        self.past, self.rows = list(state["past"]), state["rows"]
