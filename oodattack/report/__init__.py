"""What came out, as data, and its renderings."""

from oodattack.report.file import read_report
from oodattack.report.record import (
    Certified,
    Crossing,
    Curve,
    Deployed,
    Mape,
    Metrics,
    Overlap,
    Radius,
    Report,
    Result,
    Skipped,
    Source,
    Spec,
)

__all__ = [
    "Certified",
    "Crossing",
    "Curve",
    "Deployed",
    "Mape",
    "Metrics",
    "Overlap",
    "Radius",
    "Report",
    "Result",
    "Skipped",
    "Source",
    "Spec",
    "read_report",
]
