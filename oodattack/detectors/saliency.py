"""Saliency maps by name: what of an image speaks for the predicted class, as raw signed values.

Section 4 of "XAI Saliency Maps Can Be Used for OOD Detection", Hanssen & Hammer: a map is neither normalised nor
rectified, because its magnitude is what tells ID from OOD.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from oodattack.detectors.saliency_gradcam import grad_cam
from oodattack.detectors.saliency_guided import guided_backprop
from oodattack.detectors.saliency_integrated import integrated_gradients
from oodattack.detectors.saliency_lime import draw_masks, lime
from oodattack.detectors.saliency_occlusion import occlusion
from oodattack.lookup import unknown

Option = int | str | bool | None


class Saliency(NamedTuple):
    """A line of the table.

    Attributes:
        name: as in `SalAgg(method=...)`.
        source: where the method comes from.
        compute: (net, x, **options) -> raw map (B, n).
        soft: options that an attacker sets in addition, for a gradient that tells more or costs less.
        masked: the method takes `masks`, drawn from a seed.
    """

    name: str
    source: str
    compute: Callable[..., Tensor]
    soft: Mapping[str, float]
    masked: bool = False

    def options(self) -> list[str]:
        """Names of the options that a user may set."""
        place = draw_masks if self.masked else self.compute
        hidden = {"net", "x", "beta", "masks", "seed"}
        return [name for name in inspect.signature(place).parameters if name not in hidden]


BETA = 5.0  # flat between 3 and 20 on a ResNet-20
SOFT_STEPS = 10  # of 50: the maps' norms keep their order, and a search is five times faster

SALIENCIES = {
    row.name: row
    for row in (
        Saliency("guided-backprop", "arXiv:1412.6806", guided_backprop, {"beta": BETA}),
        Saliency("grad-cam", "arXiv:1610.02391", grad_cam, {"beta": BETA}),
        Saliency("integrated-gradients", "arXiv:1703.01365", integrated_gradients, {"beta": BETA, "steps": SOFT_STEPS}),
        Saliency("occlusion", "arXiv:1311.2901", occlusion, {}),
        Saliency("lime", "arXiv:1602.04938", lime, {}, masked=True),
    )
}


def saliency(name: str, options: Mapping[str, Option]) -> Saliency:
    """The line of that name, if it has all these options.

    Raises:
        ValueError: an unknown name or option.
    """
    if name not in SALIENCIES:
        raise unknown("method", name, list(SALIENCIES))
    row = SALIENCIES[name]
    for option in options:
        if option not in row.options():
            raise unknown(f"option of {name}", option, row.options())
    return row
