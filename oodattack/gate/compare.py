"""A report against a baseline: every AUROC, the drop of each, and which drops are more than noise and the margin."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from oodattack.gate.baseline import Area, Baseline, Cell
from oodattack.gate.delong import hanley_mcneil, placed
from oodattack.gate.family import adjusted, hurdle, power
from oodattack.gate.same_spec import check_spec
from oodattack.report.record import Key, in_words

CLEAN = "clean"  # in the place of a threat
ROUNDING = 1e-9  # a drop of exactly the margin passes, and 1 - 0.98 is more than 0.02
POWER = 0.95  # how often a true drop of twice the margin should be caught


class Check(NamedTuple):
    """One AUROC, then and now.

    Attributes:
        detector: full name.
        threat: "clean" for the AUROC before any attack.
        ood: the OOD set.
        old: AUROC of the baseline.
        new: of the report.
        error: standard error of the drop.
        paired: scores of the same rows were compared; else only two AUROCs, each with an error of its own.
        p: how often noise alone would carry any of all AUROCs that far and beyond the margin; at most 1.
        power: how often a true drop of twice the margin would be caught.
        regression: the drop exceeds the margin, and p is at most alpha.
    """

    detector: str
    threat: str
    ood: str
    old: float
    new: float
    error: float
    paired: bool
    p: float
    power: float
    regression: bool

    @property
    def key(self) -> Key:
        """What it is known by."""
        return self.detector, self.threat, self.ood

    @property
    def where(self) -> str:
        """The same in words."""
        return in_words(self.key)

    @property
    def drop(self) -> float:
        """AUROC lost; negative where some was won."""
        return self.old - self.new


class Comparison(NamedTuple):
    """All checks of a report.

    Attributes:
        checks: clean AUROCs and attacked ones, in the order of the baseline.
        added: cells of the report that the baseline does not have.
        max_drop: the margin.
        alpha: how often noise alone may fail the whole.
        new: the report.
        old: the baseline.
        accept_inconclusive: an attack that is no evidence any more fails nothing.
    """

    checks: list[Check]
    added: list[Cell]
    max_drop: float
    alpha: float
    new: Baseline
    old: Baseline
    accept_inconclusive: bool = False

    @property
    def failed(self) -> bool:
        """Whether the report does not pass."""
        return bool(self.regressions or self.unsure)

    @property
    def regressions(self) -> list[Check]:
        """What got worse, the largest drop first."""
        return sorted((c for c in self.checks if c.regression), key=lambda c: -c.drop)

    @property
    def doubtful(self) -> list[Cell]:
        """Cells whose attack is inconclusive now, and was evidence in the baseline."""
        evidence = {c.key for c in self.old.cells if c.verdict != "inconclusive"}
        return [c for c in self.new.cells if c.verdict == "inconclusive" and c.key in evidence]

    @property
    def unsure(self) -> list[Cell]:
        """Those of them that fail: a higher AUROC may be a search that fails."""
        return [] if self.accept_inconclusive else self.doubtful

    @property
    def weak(self) -> list[Check]:
        """Checks that miss a true drop of twice the margin too often, weakest first; none where there is no margin."""
        return sorted((c for c in self.checks if c.power < POWER and self.max_drop > 0), key=lambda c: c.power)


def compare(
    new: Baseline, old: Baseline, *, max_drop: float, alpha: float, accept_inconclusive: bool = False
) -> Comparison:
    """Fail an AUROC whose drop exceeds `max_drop` and is more than noise explains; see `family`.

    Fail, too, an attack that was evidence in the baseline and looks now as if it had failed.

    The test is one-sided. Where the scores of the same rows are known on both sides it is DeLong's for correlated ROC
    curves; otherwise the two AUROCs are taken for independent, which overestimates the noise.

    Args:
        new: the report.
        old: the baseline.
        max_drop: largest drop that is let pass, in [0, 1).
        alpha: bound for the probability that noise alone fails anything, in (0, 0.5].
        accept_inconclusive: let such an attack pass.

    Raises:
        ValueError: an argument is out of range, or the two do not measure the same thing.
    """
    if not 0 <= max_drop < 1:
        raise ValueError(f"`max_drop` must be in [0, 1), got {max_drop}. Take 0.02.")
    if not 0 < alpha <= 0.5:
        raise ValueError(f"`alpha` must be in (0, 0.5], got {alpha}. Take 0.01.")
    if not old.cells:
        raise ValueError("`baseline` must have results to compare with, got none. Write it anew with --update.")
    check_spec(new, old)
    pairs = list(dict.fromkeys(paired_areas(new, old)))
    drops = np.array([was.auroc - now.auroc for _, (was, now) in pairs])
    found = [error_of(new, old, key[0], was, now) for key, (was, now) in pairs]
    errors = np.array([error for error, _ in found])
    ps = adjusted(drops, errors, max_drop)
    powers = power(2 * max_drop, errors, max_drop, hurdle(errors, max_drop, alpha))
    fails = (drops > max_drop + ROUNDING) & (ps <= alpha)
    checks = [
        Check(*key, was.auroc, now.auroc, error, paired, float(p), float(caught), bool(failed))
        for (key, (was, now)), (error, paired), p, caught, failed in zip(pairs, found, ps, powers, fails, strict=True)
    ]
    known = {c.key for c in old.cells}
    added = [c for c in new.cells if c.key not in known]
    return Comparison(checks, added, max_drop, alpha, new, old, accept_inconclusive)


def paired_areas(new: Baseline, old: Baseline) -> Iterator[tuple[Key, tuple[Area, Area]]]:
    """(detector, threat, OOD set) and AUROC then and now; a detector's clean one on a set comes again for each threat.

    What the whole box left is not among them: it tells of the search, and less is better.
    """
    now = {cell.key: cell for cell in new.cells}
    for was in old.cells:
        here = now[was.key]
        yield (was.detector, CLEAN, was.ood), (was.clean, here.clean)
        if not (was.whole_box or here.whole_box):  # an older baseline knows the shipped ones alone
            yield was.key, (was.attacked, here.attacked)


def error_of(new: Baseline, old: Baseline, detector: str, was: Area, now: Area) -> tuple[float, bool]:
    """Standard error of a drop, and whether the rows were paired."""
    then, here = old.rows(detector, was), new.rows(detector, now)
    if then is not None and here is not None:
        return float(placed(*then).minus(placed(*here)).error), True
    alone = [
        hanley_mcneil(area.auroc, area.n_id, area.n_ood) if rows is None else float(placed(*rows).error)
        for area, rows in ((was, then), (now, here))
    ]
    return math.hypot(*alone), False
