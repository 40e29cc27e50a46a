"""Attacks of user code, named pkg.mod:callable in a threat model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oodattack.attack import Attack
from oodattack.faults import fault, out_of_memory
from oodattack.lookup import user_callable


def user_attack(source: str) -> Attack:
    """What the callable returns that `source` names, an `Attack`; what goes wrong in it is said in one line.

    The attack loop keeps for it what it keeps for all others: budget, limits, restarts, the best point so far, and the
    score of what is returned by the untouched detector.

    Args:
        source: pkg.mod:callable, looked for in the current directory first; the callable takes no arguments.

    Raises:
        ValueError: there is no such callable, it fails, or returns something else. The attack itself raises it where
            its start or step fails, or gives points of another shape than the images.
    """
    make = user_callable(source)
    try:
        made = make()
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise ValueError(f"`{source}` must make an attack, called bare, got {fault(error)}. Correct it.") from error
    if not isinstance(made, Attack):
        got = type(made).__name__
        raise ValueError(f"`{source}` must return an attack, got {got}. Return oodattack.attack.Attack(start, step).")

    def start(x: Tensor, *others: Any) -> tuple[Tensor, Any]:
        return _point(made.start, x, (x, *others), source, "start")

    def step(seen: Any, x: Tensor, *others: Any) -> tuple[Tensor, Any]:
        return _point(made.step, x, (seen, x, *others), source, "step")

    return Attack(start, step, made.white_box)


def _point(
    function: Callable[..., Any], x: Tensor, arguments: tuple[Any, ...], source: str, what: str
) -> tuple[Tensor, Any]:
    """What a start or a step returns: points like `x`, and a state."""
    try:
        found = function(*arguments)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ValueError(f"the {what} of `{source}` must return points, got {fault(error)}. Correct it.") from error
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Tensor)):
        got = type(found).__name__
        raise ValueError(f"the {what} of `{source}` must return (x_adv, state), got {got}. Return None for no state.")
    if found[0].shape != x.shape or not torch.is_floating_point(found[0]):
        shape, got = tuple(x.shape), f"{tuple(found[0].shape)} of {found[0].dtype}"
        raise ValueError(f"the {what} of `{source}` must return points of shape {shape}, got {got}. Correct it.")
    return found[0].detach(), found[1]
