"""Confident Classifier: Lee, Lee, Lee & Shin, "Training Confidence-calibrated Classifiers for Detecting
Out-of-Distribution Samples", ICLR 2018, arXiv:1711.09325. Attacked by Liang et al. 2020, arXiv:2009.08016."""

from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.default_stages import stages_for
from oodattack.detectors.layer_gradients import check_layers
from oodattack.detectors.msp import log_odds_surrogate, msp
from oodattack.detectors.net import OnNetwork


class Confident(OnNetwork):
    """One minus the largest softmax probability, with the convolutional features as latent.

    The score is that of `MSP`, and so is the surrogate; what an attack matches is another encoder: the flattened output
    of the part that ends before the classifier, as Liang et al. 2020 have it for the VGG13 of the authors.

    Args:
        net: classifier; the paper's is trained to be undecided on images of a GAN.
        layer: name of the module whose output is the latent. Default: `features`, as in VGG, or the last stage.

    Raises:
        ValueError: an unknown layer, or none given to a network that has neither `features` nor stages.

    Differs from the paper: higher means more OOD.
    """

    name = "confident"

    def __init__(self, net: Classifier, *, layer: str | None = None) -> None:
        super().__init__(net, "run")
        (self.layer,) = check_layers(net, None if layer is None else [layer], lambda: [encoder_of(net)])
        self.surrogate = log_odds_surrogate(net.logits)

    def latent(self, x: Tensor) -> Tensor:
        """Output of the layer, flattened to (B, D)."""
        return self.net.run(x, watch=[self.layer]).outputs[self.layer].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), in [0, 1]."""
        return msp(self.net.logits(x))


def encoder_of(net: Classifier) -> str:
    """Name of the module `features`, or of the last stage where there is none.

    Raises:
        ValueError: a network with neither.
    """
    if "features" in dict(net.network.named_children()):
        return "features"
    return stages_for(net, "Confident(net, layer=...)")[-1]
