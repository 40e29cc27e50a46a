"""Is a report worse than an earlier one by more than noise? What `oodattack check` asks, and the pytest plugin."""

from oodattack.gate.baseline import Baseline
from oodattack.gate.compare import Check, Comparison, compare
from oodattack.gate.formats import FORMATS
from oodattack.gate.junit import save_junit
from oodattack.gate.measured import from_report, measured, read_baseline, replaced
from oodattack.gate.scores import Scores
from oodattack.gate.wording import left_out

__all__ = [
    "FORMATS",
    "Baseline",
    "Check",
    "Comparison",
    "Scores",
    "compare",
    "from_report",
    "left_out",
    "measured",
    "read_baseline",
    "replaced",
    "save_junit",
]
