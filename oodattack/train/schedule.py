"""The optimiser of a recipe, and its learning rate as a function of the step."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from oodattack.train.recipe import Recipe


def make_optimiser(parameters: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
    """SGD with momentum 0.9, or Adam."""
    if recipe.optimiser == "adam":
        return Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return SGD(parameters, lr=recipe.lr, momentum=0.9, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay)


def make_schedule(optimiser: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """The learning rate after each step.

    Args:
        optimiser: its groups are changed.
        recipe: of the schedule.
        steps: in an epoch.
    """
    if recipe.schedule == "one-cycle":
        # torch cycles the first of Adam's betas and SGD's momentum alike, from 0.95 to 0.85 and back
        return OneCycleLR(optimiser, recipe.lr, total_steps=recipe.epochs * steps)
    return LambdaLR(optimiser, lambda step: factor(recipe, step, steps))


def factor(recipe: Recipe, step: int, steps: int) -> float:
    """What `recipe.lr` is multiplied by in a step; steps are counted from 0 through all epochs.

    Args:
        recipe: with another schedule than "one-cycle".
        step: 0 before the first.
        steps: in an epoch.
    """
    rise = min(1.0, step / recipe.warmup) if recipe.warmup else 1.0
    epoch = step // steps
    if recipe.schedule == "steps":
        passed = sum(epoch >= round(share * recipe.epochs) for share in recipe.milestones)
        return rise * recipe.decay**passed
    done = epoch / recipe.epochs if recipe.schedule == "cosine-epochs" else step / (recipe.epochs * steps)
    low = recipe.lr_end / recipe.lr
    return rise * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)
