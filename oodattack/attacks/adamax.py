"""OOD attack: Liang et al., "An Algorithm for Out-of-Distribution Attack to Neural Network Encoder", arXiv:2009.08016.

Algorithm 1 with the optimiser that the note below it names: Adamax (Kingma & Ba, arXiv:1412.6980, Alg. 2).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom, steepest_l2, steepest_linf
from oodattack.threat import ThreatModel


class State(NamedTuple):
    """Adamax's moments of the perturbation."""

    mean: Tensor  # (B, ...) exponential average of the gradient
    largest: Tensor  # (B, ...) exponentially weighted infinity norm
    t: int


def adamax(*, step_size: float, betas: tuple[float, float] = (0.9, 0.999), floor: float = 1e-8) -> Attack:
    """Adamax on delta = x_adv - x, fed with the normalised gradient h = grad / ||grad||_2 (sign of it for linf).

    After each step delta is scaled into the ball, then x + delta clipped to the box and written back; the moments are
    left alone. The paper starts on the sphere (`init = "sphere"`) and takes step_size = 1/100.

    Args:
        step_size: learning rate as a share of eps, in (0, 2].
        betas: decay of the two averages.
        floor: added to |h| in the infinity norm, > 0.

    Raises:
        ValueError: `step_size` is out of range.

    Differs from the paper: the printed update x - alpha h becomes Adamax's, as the note and the authors' code have it.
    """
    if not 0 < step_size <= 2:
        raise ValueError(f"`step_size` is a share of eps and must be in (0, 2], got {step_size}. Write 0.25.")
    normalise = {"linf": steepest_linf, "l2": steepest_l2, "l1": steepest_l2}

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, _steps: int) -> tuple[Tensor, State]:
        return first_point(x, threat, random), State(torch.zeros_like(x), torch.zeros_like(x), 0)

    def step(seen: Seen, _x: Tensor, threat: ThreatModel, _random: RowRandom, s: State) -> tuple[Tensor, State]:
        assert seen.grad is not None
        h = normalise[threat.norm](seen.grad)
        t = s.t + 1
        mean = torch.lerp(h, s.mean, betas[0])
        largest = torch.maximum(betas[1] * s.largest, h.abs() + floor)
        length = step_size * threat.eps / (1 - betas[0] ** t)
        return seen.x_adv + length * mean / largest, State(mean, largest, t)

    return Attack(start, step)
