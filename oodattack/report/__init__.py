"""What came out, as data, and its renderings."""

from oodattack.report.record import (
    Deployed,
    Mape,
    Metrics,
    Report,
    Result,
    Skipped,
    Source,
    Spec,
    read_report,
)

__all__ = ["Deployed", "Mape", "Metrics", "Report", "Result", "Skipped", "Source", "Spec", "read_report"]
