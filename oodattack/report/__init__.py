"""What came out, as data, and its renderings."""

from oodattack.report.record import (
    Crossing,
    Curve,
    Deployed,
    Mape,
    Metrics,
    Overlap,
    Report,
    Result,
    Skipped,
    Source,
    Spec,
    read_report,
)

__all__ = [
    "Crossing",
    "Curve",
    "Deployed",
    "Mape",
    "Metrics",
    "Overlap",
    "Report",
    "Result",
    "Skipped",
    "Source",
    "Spec",
    "read_report",
]
