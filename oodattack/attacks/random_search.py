"""Independent random draws in the ball: the floor that every attack must beat."""

from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.starts import noise
from oodattack.geometry import RowRandom, ball
from oodattack.threat import ThreatModel


def random_search() -> Attack:
    """x_t = x + uniform draw in the ball, each t anew; the loop keeps the best. Uses no gradient."""

    def draw(x: Tensor, threat: ThreatModel, random: RowRandom) -> Tensor:
        return x + noise(random, x, threat, ball)

    def start(x: Tensor, threat: ThreatModel, random: RowRandom, _steps: int) -> tuple[Tensor, None]:
        return draw(x, threat, random), None

    def step(_seen: Seen, x: Tensor, threat: ThreatModel, random: RowRandom, state: None) -> tuple[Tensor, None]:
        return draw(x, threat, random), state

    return Attack(start, step, white_box=False)
