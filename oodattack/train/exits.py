"""Networks that classify at several depths within the loop: cross-entropy trains every exit."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from oodattack.classifier import Classifier
from oodattack.train.recipe import Recipe

ExitsOf = Callable[[Tensor], list[Tensor]]  # (B, C, H, W) in [0, 1] -> logits of each exit, the last one's last


@dataclass(frozen=True)
class Exits:
    """What the loop makes of a network with exits."""

    exits: ExitsOf

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of the last exit, shape (B, K)."""
        return self.exits(x)[-1]


def exits_of(network: nn.Module) -> ExitsOf | None:
    """The method `exits` of a network, after whatever normalisation is around it; None where it has none."""
    if isinstance(network, Classifier):
        inner = exits_of(network.network)
        return None if inner is None else lambda x: inner(network.normalised(x))
    found = getattr(network, "exits", None)
    return found if callable(found) else None


def check_exits(network: nn.Module, recipe: Recipe) -> None:
    """Raise ValueError for a network with exits and an objective that would train the last one alone."""
    if recipe.objective != "ce" and exits_of(network) is not None:
        raise ValueError(
            f"`model` must be one without exits for {recipe.objective}, got one with, of which it would train the last "
            "alone. Take the objective ce, which trains all, or another model."
        )
