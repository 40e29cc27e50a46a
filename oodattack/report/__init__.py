"""What came out, as data, and its renderings."""

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
    read_report,
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
