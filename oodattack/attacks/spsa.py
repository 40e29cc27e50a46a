"""Simultaneous perturbation stochastic approximation: Spall, "Multivariate Stochastic Approximation Using a
Simultaneous Perturbation Gradient Approximation", IEEE Trans. Automatic Control 1992; as an attack: Uesato,
O'Donoghue, van den Oord & Kohli, "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks", ICML 2018,
arXiv:1802.05666.
"""

import torch
from torch import Tensor

from oodattack.attack import Attack
from oodattack.attacks.nes import State, probing
from oodattack.geometry import RowRandom, widest
from oodattack.threat import ThreatModel


def spsa(
    *,
    samples: int = 10,
    sigma: float = 0.01,
    step_size: float = 0.5,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Attack:
    """Adam on an estimated gradient, g_i = 1 / n sum_k (f(x + sigma u_k) - f(x - sigma u_k)) / (2 sigma u_ki).

    u_k has random signs for entries. The step is step_size * eps * m / sqrt(v), with Adam's averages m of g and v of
    g^2, both corrected for their start at zero (Kingma & Ba, arXiv:1412.6980, Alg. 1); it falls linearly to zero over
    the queries. A step costs 2 n + 1 queries: the last one measures the new point.

    Args:
        samples: n, pairs of probes for one step, >= 1.
        sigma: length of a probe per pixel, > 0, input units.
        step_size: first learning rate as a share of eps (for a patch: of the range of a pixel), in (0, 2].
        betas: decay of the two averages, each in [0, 1).

    Raises:
        ValueError: a number is out of range.

    Differs from the paper: where ball and box cut a probe short, the way it really went is used; steps shrink; Adam's
    floor is zero, so the size of the score does not matter; l2 and l1, where Adam's dense step is merely projected.
    """
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"`betas` must be in [0, 1), got {betas}. Write (0.9, 0.999).")

    def draw(random: RowRandom, x: Tensor) -> Tensor:
        return (2 * random.integers(2, x.shape[1:]) - 1).to(x)

    def ascend(estimate: Tensor, _threat: ThreatModel, s: State) -> tuple[Tensor, State]:
        g, m, v = widest(estimate), widest(s.mean), widest(s.square)  # a square may be too small or large for float32
        mean, square = torch.lerp(g, m, betas[0]), torch.lerp(g.square(), v, betas[1])
        k = s.updates + 1
        spread = (square / (1 - betas[1] ** k)).sqrt()
        direction = mean / (1 - betas[0] ** k) / spread.where(spread > 0, 1)
        return direction.to(estimate), s._replace(mean=mean, square=square)

    return probing(draw, ascend, samples=samples, sigma=sigma, step_size=step_size)
