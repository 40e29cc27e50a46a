"""S&I-Z: "Splitting & Integrating: Out-of-Distribution Detection via Adversarial Gradient Attribution", ICML 2025."""

from collections.abc import Sequence

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.layer_gradients import SignPath

COUNTS = ("sum", "per_step")


class SIZ(GaiaZ):
    """GAIA-Z on gradients summed along T sign steps taken on each norm layer's output separately; Alg. 1.

    d = share of positions where sum_{i=1..T} d(max logit)/dz_i is not exactly zero, score = mean over channels of d^2.
    Cost in forward passes, measured with a ResNet-20 of 19 norm layers: 38 at T = 2 and 81 at T = 3, whatever the
    options, as every layer needs passes of its own; GAIA-Z 3. Attacks search through the surrogate, at a few each.

    Args:
        net: classifier with norm layers.
        layers: names of norm layers. Default: all of them, shortcut ones included.
        steps: T >= 1; with T = 1 this is GAIA-Z exactly.
        step_size: eta, > 0, in the units of the layer's output.
        count: "sum" for positions where the sum over the steps is not zero, as in the authors' code; "per_step" for the
            mean over the steps of the share of positions where that step's gradient is not, eq. (11).
        delta_weighted: take the attribution A = sum_i (z_{i+1} - z_i) * g_i of eq. (10) for the sum of gradients, with
            g the gradient of the loss as printed there, so that A = eta sum_i |g_i|. It is zero where the loss has no
            gradient: the same positions, but for inputs so confident that rounding leaves none.

    Differs from the paper: by default follows the authors' code, that is the gradient of the max logit (not of the
    loss), no product with the step (eq. 10), the indicator of the summed gradient (eq. 11 counts every step). Never a
    projection (eq. 4). Differs from the authors' code: their first split is the output of the first convolution, here
    of its norm.
    """

    name = "si-z"

    def __init__(
        self,
        net: Classifier,
        *,
        layers: Sequence[str] | None = None,
        steps: int = 2,
        step_size: float = 1e-3,
        count: str = "sum",
        delta_weighted: bool = False,
    ) -> None:
        check_steps(steps, step_size)
        if count not in COUNTS:
            raise ValueError(
                f"`count` must be one of {', '.join(COUNTS)}, got {count!r}. Leave it out for that of the authors."
            )
        super().__init__(net, layers=layers)
        self.steps, self.step_size, self.count, self.delta_weighted = steps, step_size, count, delta_weighted
        self.path = SignPath(steps, step_size, delta_weighted=delta_weighted, per_step=count == "per_step")


def check_steps(steps: int, step_size: float) -> None:
    """Raise ValueError unless T >= 1 and eta > 0."""
    if steps < 1:
        raise ValueError(f"`steps` must be >= 1, got {steps}. The default is 2.")
    if not step_size > 0:
        raise ValueError(f"`step_size` must be > 0, got {step_size}. The default is 0.001.")
