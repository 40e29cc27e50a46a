"""S&I-A: "Splitting & Integrating: Out-of-Distribution Detection via Adversarial Gradient Attribution", ICML 2025."""

from collections.abc import Sequence

from oodattack.detector import Classifier
from oodattack.detectors.gaia_a import GaiaA, kept_features
from oodattack.detectors.si_z import check_steps


class SIA(GaiaA):
    """GAIA-A on gradients summed along T sign steps taken on each layer separately, on 90 % of the features; Eq. 12-14.

    Args:
        net: classifier with norm layers and a linear head.
        layers: names of norm layers. Default: those of the last two stages.
        steps: T >= 1.
        step_size: eta, > 0, in the units of the layer's output.
        keep: share in (0, 1] of penultimate features, those with the largest sum_c W_ck, in the inner gradient; with
            `keep = 1` and `steps = 1` this is GAIA-A exactly.

    Differs from the paper: follows the authors' code: "0.9" drops features and scales nothing, one omega a row (Eq. 13
    has one a channel), no 1/T, no square root (Eq. 14; same order of scores).
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
    ) -> None:
        check_steps(steps, step_size)
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be in (0, 1], got {keep}.")
        super().__init__(net, layers=layers)
        kept_features(net, keep)
        self.steps, self.step_size, self.keep = steps, step_size, keep
        self._use_surrogate()
