"""Which auxiliary images a step sees: random ones, some of a pool of candidates, or those near POEM's boundary."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from oodattack import objectives
from oodattack.classifier import Classifier
from oodattack.objectives import Pool
from oodattack.train.recipe import Recipe
from oodattack.train.training_set import TrainingSet, take

CANDIDATES = 2  # at least, for each image that is chosen
CHUNK = 1024  # images that are looked at in one pass

Chooser = Callable[[nn.Module, int, int, Generator], Tensor]  # network, epoch, step, generator -> rows of `aux`


def random_outliers(recipe: Recipe, n_aux: int) -> Chooser:
    """Any rows, with repeats, by the loop's own generator.

    Objectives without outliers draw, too, so that one seed gives all of them the same order and the same shifts.
    """
    n = recipe.batch_size * recipe.outliers

    def choose(network: nn.Module, epoch: int, step: int, generator: Generator) -> Tensor:
        return torch.randint(n_aux, (n,), generator=generator)

    return choose


def pooled_outliers(recipe: Recipe, aux: Tensor, *, steps: int, seed: int) -> Chooser:
    """What the recipe's sampler picks from a pool of candidates, one pool a step.

    The pools of an epoch are a fresh partition of the whole auxiliary set, so every image is considered in each; of
    several such partitions where one would leave less than `CANDIDATES` to choose each image from.

    Args:
        recipe: with a sampler.
        aux: all candidates.
        steps: in an epoch.
        seed: of partitions and clusters.

    Differs from the authors' code of GReg and DOS: candidates are looked at as they are, not after augmentation.
    """
    row = objectives.SAMPLERS[str(recipe.chooser)]
    n = recipe.batch_size * recipe.outliers
    if len(aux) < n:
        raise ValueError(
            f"`aux` must hold {n} images for the sampler {row.name}, as many as a step takes, got {len(aux)}. Add "
            "some, or lower `batch_size`."
        )
    least = min(CANDIDATES * n, len(aux))
    unseen = recipe.extra_classes if row.name != "dos" else 0  # outputs that the sampler must not see

    @lru_cache(maxsize=1)
    def pools(epoch: int) -> tuple[Tensor, ...]:
        return objectives.epoch_pools(len(aux), steps, seed=(seed * 10_007 + epoch) % 2**32, least=least)

    def choose(network: nn.Module, epoch: int, step: int, generator: Generator) -> Tensor:
        candidates = pools(epoch)[step]
        pool = look(network, aux, candidates)
        pool = pool._replace(logits=pool.logits[:, : pool.logits.shape[1] - unseen])
        chosen = row.sample(pool, n, (seed * 10_007 + epoch * 1_009 + step) % 2**32)
        return candidates[chosen.cpu()]

    return choose


def chooser(recipe: Recipe, data: TrainingSet, *, steps: int, seed: int) -> Chooser:
    """How a recipe comes by its outliers."""
    if data.aux is None or recipe.chooser in (None, "random"):
        return random_outliers(recipe, 1 if data.aux is None else len(data.aux))
    if recipe.chooser == "poem":
        from oodattack.train.boundary import Boundary

        return Boundary(recipe, data, steps=steps)
    return pooled_outliers(recipe, data.aux, steps=steps, seed=seed)


def look(network: nn.Module, images: Tensor, rows: Tensor) -> Pool:
    """Features and logits of these rows with the network in eval mode, which is then put into training mode."""
    net = network if isinstance(network, Classifier) else Classifier(network)
    like = next(network.parameters())
    network.eval()
    with torch.no_grad():
        seen = [net.run(take(images, part, like)) for part in rows.split(CHUNK)]
    network.train()
    return Pool(torch.cat([s.features for s in seen]), torch.cat([s.logits for s in seen]))
