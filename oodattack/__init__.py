"""How much of its AUROC is left when somebody works against your out-of-distribution detector?

    import oodattack as oa
    net = oa.Classifier(network, mean=..., std=...)
    report = oa.evaluate(oa.detectors.Energy(net), id=x_id, ood={"svhn": x_ood}, threats=["linf-8-255"], seed=0)
    report.table()

Nothing is imported before it is used: `import oodattack` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oodattack import adapters, bounds, detectors, objectives
    from oodattack.classifier import Classifier
    from oodattack.detector import Detector, Surrogate
    from oodattack.evaluation import evaluate
    from oodattack.evaluation.adversarial import adversarial_images
    from oodattack.report import Report, read_report
    from oodattack.threat import Suite, Sweep, ThreatModel, read_threat

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "oodattack.classifier",
    "Detector": "oodattack.detector",
    "Surrogate": "oodattack.detector",
    "adversarial_images": "oodattack.evaluation.adversarial",
    "evaluate": "oodattack.evaluation",
    "Report": "oodattack.report",
    "read_report": "oodattack.report",
    "ThreatModel": "oodattack.threat",
    "Suite": "oodattack.threat",
    "Sweep": "oodattack.threat",
    "read_threat": "oodattack.threat",
}
_ROOMS = ("adapters", "bounds", "detectors", "objectives")

__all__ = [
    "Classifier",
    "Detector",
    "Report",
    "Suite",
    "Surrogate",
    "Sweep",
    "ThreatModel",
    "adapters",
    "adversarial_images",
    "bounds",
    "detectors",
    "evaluate",
    "objectives",
    "read_report",
    "read_threat",
]


def __dir__() -> list[str]:
    """The public names, imported yet or not: for completion and `help`."""
    return [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"oodattack.{name}")
    raise AttributeError(f"module 'oodattack' has no attribute {name!r}")
