"""S&I-A: "Splitting & Integrating: Out-of-Distribution Detection via Adversarial Gradient Attribution", ICML 2025."""

from collections.abc import Sequence

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA, kept_features
from oodattack.detectors.layer_gradients import SignPath
from oodattack.detectors.si_z import check_steps


class SIA(GaiaA):
    """GAIA-A on gradients summed along T sign steps taken on each layer alone, on 90 % of the features; eq. (12)-(14).

    Cost in forward passes, measured with a ResNet-20 of 12 late norm layers: 21 at T = 2 and 44 at T = 3, a fifth more
    with `delta_weighted`; GAIA-A 2.

    Args:
        net: classifier with norm layers and a linear head, or one of 1 x 1 convolutions.
        layers: names of norm layers. Default: those of the last two stages.
        steps: T >= 1.
        step_size: eta, > 0, in the units of the layer's output.
        keep: share in (0, 1] of penultimate features, those with the largest sum_c W_ck, in the inner gradient; with
            `keep = 1` and `steps = 1` this is GAIA-A exactly.
        delta_weighted: multiply every gradient, inner and outer, by the step that follows it, (z_{i+1} - z_i) * g_i as
            in eq. (10), before they are summed. Eq. (12) and (13) have no such product; with it, inner averages are
            those of how much the sum of the features changes along the path.

    There is no `count` as `SIZ` has: eq. (13) averages and counts nothing, and its 1/T scales all scores alike.

    Differs from the paper: follows the authors' code: "0.9" drops features and scales nothing, one omega a row (eq. 13
    has one a channel), no 1/T, no square root (eq. 14; same order of scores). The paper ran it on BiT with the norms
    of block4 alone, where the default takes those of block3, too: name them with `layers`.
    """

    name = "si-a"

    def __init__(
        self,
        net: Classifier,
        *,
        layers: Sequence[str] | None = None,
        steps: int = 2,
        step_size: float = 1e-3,
        keep: float = 0.9,
        delta_weighted: bool = False,
    ) -> None:
        check_steps(steps, step_size)
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be in (0, 1], got {keep}. The paper takes 0.9.")
        super().__init__(net, layers=layers)
        kept_features(net, keep)
        self.steps, self.step_size, self.keep, self.delta_weighted = steps, step_size, keep, delta_weighted
        self.path = SignPath(steps, step_size, delta_weighted=delta_weighted)
        self._use_surrogate()
