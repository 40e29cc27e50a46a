"""Other libraries' detectors and other people's services, unchanged: what is reported is what they say.

A pytorch-ood detector is taken as it is wherever a detector is asked for; `openood` makes one of an OpenOOD
postprocessor and its network, `HttpScorer` of an address that answers with scores.
"""

from typing import Any

from oodattack.adapters.http_scorer import HttpScorer
from oodattack.adapters.openood import OpenOOD, openood
from oodattack.adapters.pytorch_ood import PytorchOOD, is_pytorch_ood

__all__ = ["HttpScorer", "OpenOOD", "PytorchOOD", "adapted", "openood"]


def adapted(detector: Any) -> Any:
    """A pytorch-ood detector as one of ours; anything else as it is."""
    return PytorchOOD(detector) if is_pytorch_ood(detector) else detector
