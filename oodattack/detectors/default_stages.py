"""The stages of a network for a detector that looks at them by default."""

from oodattack.classifier import Classifier
from oodattack.classifier.layers import NoStages


def stages_for(net: Classifier, call: str) -> list[str]:
    """`net.stages()`; in the error, the call of the detector that names its layers instead.

    Raises:
        ValueError: the network does not name its stages.
    """
    try:
        return net.stages()
    except NoStages as error:
        raise ValueError(
            "the network has no modules named like `layer1`. Take another detector, or name some of "
            f"`named_modules()` in Python: {call}."
        ) from error
