"""S&I-Z: "Splitting & Integrating: Out-of-Distribution Detection via Adversarial Gradient Attribution", ICML 2025."""

from collections.abc import Sequence

from oodattack.detector import Classifier
from oodattack.detectors.gaia_z import GaiaZ


class SIZ(GaiaZ):
    """GAIA-Z on gradients summed along T sign steps taken on each norm layer's output separately; Alg. 1.

    d = share of positions where sum_{i=1..T} d(max logit)/dz_i is not exactly zero, score = mean over channels of d^2.
    Cost: one forward, two backward passes, and T - 1 forward-backward passes a layer.

    Args:
        net: classifier with norm layers.
        layers: names of norm layers. Default: all of them, shortcut ones included.
        steps: T >= 1; with T = 1 this is GAIA-Z exactly.
        step_size: eta, > 0, in the units of the layer's output.

    Differs from the paper: follows the authors' code, that is the gradient of the max logit (not of the loss, Eq. 10),
    no product with the step, the indicator of the summed gradient (Eq. 11 counts every step), no projection (Eq. 4).
    Differs from the authors' code: their first split is the output of the first convolution, here of its norm.
    """

    name = "si-z"

    def __init__(
        self, net: Classifier, *, layers: Sequence[str] | None = None, steps: int = 2, step_size: float = 1e-3
    ) -> None:
        check_steps(steps, step_size)
        super().__init__(net, layers=layers)
        self.steps = steps
        self.step_size = step_size


def check_steps(steps: int, step_size: float) -> None:
    """Raise ValueError unless T >= 1 and eta > 0."""
    if steps < 1:
        raise ValueError(f"`steps` must be >= 1, got {steps}.")
    if step_size <= 0:
        raise ValueError(f"`step_size` must be > 0, got {step_size}.")
