"""A pytest fixture for robustness: `assert_robust`. pytest finds it by itself where this package is installed.

def test_detector_survives(assert_robust):
    assert_robust(my_detector, threat="linf-8-255", id=x_id, ood=x_ood, min_auroc=0.8)

pytest imports this file in every session, so it imports nothing but pytest before the fixture is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from oodattack.report import Report

UPDATE = "--oodattack-update"
WRITTEN = pytest.StashKey[set[Path]]()  # baselines that this session has updated


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that accepts new baselines."""
    group = parser.getgroup("oodattack")
    group.addoption(
        UPDATE,
        action="store_true",
        default=False,
        help="assert_robust: write baselines from what is measured, and compare nothing.",
    )


class AssertRobust:
    """Attacks a detector and fails the test where it is not robust."""

    def __init__(self, folder: Path, *, update: bool, written: set[Path] | None = None) -> None:
        self.folder, self.update = folder, update
        self.written = set() if written is None else written

    def __call__(
        self,
        detector: Any,
        *,
        threat: Any,
        id: Any,
        ood: Any,
        min_auroc: float | None = None,
        baseline: str | Path | None = None,
        max_drop: float = 0.02,
        alpha: float = 0.01,
        accept_inconclusive: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> "Report":
        """Attack within `threat`, and within the whole box to see that the search works.

        Args:
            detector: images (B, C, H, W) in [0, 1] -> scores (B,), higher means more OOD; or several by name.
            threat: the name of a threat model, a TOML file or a `ThreatModel`; or a list of them.
            id: in-distribution images, shape (N, C, H, W), in [0, 1]; a DataLoader or Dataset of them; or the name of
                a data set.
            ood: OOD images, or a name; or several by name.
            min_auroc: least AUROC under attack.
            baseline: a file as `oodattack check --update` and `pytest --oodattack-update` write it, from the folder of
                the test, a file of its own for each call. No AUROC, clean or under attack, may be lower than there by
                more than noise and `max_drop`. A threat that does not apply to a detector is a warning, and a failure
                where none of them applies to any.
            max_drop: see `baseline`.
            alpha: how often noise alone may fail the test.
            accept_inconclusive: also pass where the attack looks as if it had failed; with `baseline`, where it did
                not look so there.
            seed: of the searches.
            options: of `oodattack.evaluate`, such as `targets` or `batch_size`.

        Returns:
            The report.

        Raises:
            AssertionError: the detector is not robust; the message has the numbers.
            ValueError: something to put right first; one line.
        """
        __tracebackhide__ = True
        from oodattack.gate import from_report, robust

        if (min_auroc is None) == (baseline is None):
            both = "neither" if min_auroc is None else "both"
            raise ValueError(f"`assert_robust` must be given `min_auroc` or `baseline`, got {both}. Give one of them.")
        if min_auroc is not None and not 0 <= min_auroc <= 1:
            raise ValueError(f"`min_auroc` must be in [0, 1], got {min_auroc}. Write 0.8, not 80.")
        if min_auroc is not None:
            judge = robust.at_least(min_auroc, accept_inconclusive=accept_inconclusive)
        else:
            path = (self.folder / str(baseline)).resolve()
            if path in self.written:
                raise ValueError(
                    f"`baseline` must be a file of its own for each call, got {str(baseline)!r} twice in an update. "
                    "Name another, or give several detectors, threats and sets in one call."
                )
            margins: dict[str, Any] = {"max_drop": max_drop, "alpha": alpha, "accept_inconclusive": accept_inconclusive}
            judge = robust.nothing_attacked if self.update else robust.no_worse(path, **margins)
        found = robust.judged(detector, threat=threat, id=id, ood=ood, seed=seed, judge=judge, **options)
        if baseline is not None and self.update and not found.failures:
            from_report(found.report, found.scores).save(path)
            self.written.add(path)
        if found.failures:
            lines = "\n".join(f"  {line}" for line in found.failures)
            raise AssertionError(f"not robust:\n{lines}")
        return found.report


@pytest.fixture
def assert_robust(request: pytest.FixtureRequest) -> AssertRobust:
    """Attack a detector and fail where it is not robust; see `AssertRobust.__call__`."""
    written = request.config.stash.setdefault(WRITTEN, set())
    return AssertRobust(request.path.parent, update=bool(request.config.getoption(UPDATE)), written=written)
