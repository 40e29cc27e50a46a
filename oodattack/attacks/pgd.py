"""Projected gradient ascent: Madry et al., "Towards Deep Learning Models Resistant ...", arXiv:1706.06083, sec. 2.1."""

from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.starts import first_point
from oodattack.geometry import RowRandom, uphill
from oodattack.threat import ThreatModel


def pgd(*, step_size: float) -> Attack:
    """Step along the steepest ascent direction of the norm: x_{t+1} = P(x_t + step_size * eps * steepest(grad)).

    For a patch the range of a pixel, 1, takes the place of eps. For l1 the walls of the box are
    minded, see `geometry.uphill`.

    Args:
        step_size: step length as a share of eps (for a patch: of the range of a pixel), in (0, 2].

    Raises:
        ValueError: `step_size` is out of range.
    """
    if not 0 < step_size <= 2:
        raise ValueError(f"`step_size` is a share of eps and must be in (0, 2], got {step_size}. Write 0.25.")

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, _steps: int) -> tuple[Tensor, None]:
        return first_point(x, threat, random), None

    def step(seen: Seen, _x: Tensor, threat: ThreatModel, _random: RowRandom, state: None) -> tuple[Tensor, None]:
        assert seen.grad is not None
        up = uphill(seen.grad, seen.x_adv, threat.norm)
        return seen.x_adv + step_size * threat.reach * up, state  # the loop applies P

    return Attack(start, step)
