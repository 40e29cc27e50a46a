"""The cells of one evaluation, OOD set by OOD set."""

from collections.abc import Callable, Sequence

import torch

from oodattack.certificates import Certificates
from oodattack.diagnose import broken_at
from oodattack.evaluation.cell import Checks, certified, denied_auroc, follows_a_gradient, indicators, record
from oodattack.evaluation.check import check_images
from oodattack.evaluation.curves import search_curve
from oodattack.evaluation.floors import floors_of
from oodattack.evaluation.keeper import Attacked
from oodattack.evaluation.outcome import Cell, Clean, OodSet, Outcome, left_auroc, show_rows, worst
from oodattack.evaluation.searches import ID_ROWS, Searches
from oodattack.evaluation.setup import Setup
from oodattack.evaluation.toward import Toward
from oodattack.numbers import eps_curves, numbers
from oodattack.report import Certified, Curve, Result
from oodattack.report.sheet import Shown
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, each_radius, limits_of, shares_queries


class Run:
    """One call of `evaluate`: what has been searched and scored so far."""

    def __init__(self, setup: Setup, watch: Callable[[Shown], None] | None) -> None:
        self.setup, self.watch = setup, watch
        self.results: list[Result] = []
        self.curves: list[Curve] = []
        self.searches = Searches(setup)
        self._certificates = Certificates()
        self._toward = Toward(setup)

    def all(self, threats: Sequence[Threat]) -> None:
        """Run every cell.

        Raises:
            ValueError: scores that are not finite or not one a row; start images that are missing.
        """
        setup = self.setup
        sets = self._sets(threats)
        images = {ood.name: ood.x for ood, _ in sets}
        setup.keeper.sets({ID_ROWS: setup.id, **({} if setup.targets is None else {"targets": setup.targets})})
        setup.keeper.sets({f"ood/{name}": x for name, x in images.items()})
        setup.begin(images)
        for name, subject in setup.subjects.items():
            setup.keeper.clean(name, ID_ROWS, subject.id_scores)
        setup.total = sum(self.searches.cost(ood, own, first=i == 0) for i, (ood, own) in enumerate(sets))
        for ood, own in sets:
            self._set(ood, own)

    def _sets(self, threats: Sequence[Threat]) -> list[tuple[OodSet, list[Threat]]]:
        """Every OOD set and its threats; a threat with start images of its own has them for its OOD set."""
        setup = self.setup
        by_start: dict[str, list[Threat]] = {}
        for t in threats:
            by_start.setdefault(limits_of(t).start, []).append(t)
        on_ood = by_start.pop("ood", [])
        sets = [(OodSet(name, x), on_ood) for name, x in setup.ood.items() if on_ood]
        if "id" in by_start:  # ID images beside the evaluated ones
            assert setup.targets is not None  # `evaluate` has seen to it
            setup.starts.setdefault("id", setup.targets)
        for start, own in by_start.items():
            if start not in setup.starts:
                held = list(setup.starts)
                raise ValueError(f"`starts` must hold images for start {start!r}, got {held}. Add them.")
            check_images(setup.starts[start], start, like=setup.id)
            if on_ood and start in setup.ood and not torch.equal(setup.ood[start], setup.starts[start]):
                raise ValueError(
                    f"`ood` and `starts` must have names of their own, got other images as {start!r} in each. "
                    "Rename the OOD set."
                )
            sets.append((OodSet(start, setup.starts[start]), own))
        return sets

    def _set(self, ood: OodSet, threats: list[Threat]) -> None:
        """All detectors and threats on one OOD set."""
        setup = self.setup
        clean = {}
        for name in setup.detectors:
            scores = setup.score(name, ood.x, ood.name)
            setup.keeper.clean(name, f"ood/{ood.name}", scores)
            on_id = setup.subjects[name].id_scores
            clean[name] = Clean(on_id, scores, numbers(on_id, scores))
        outcomes = self.searches.on(ood, threats, clean)
        for threat in threats:
            for judged in each_radius(threat):
                for name in setup.detectors:
                    outcome = self._outcome(judged, clean[name], outcomes[name])
                    if outcome is not None:
                        self._cell(Cell(name, judged, ood, clean[name], outcome), outcomes[name])
            if isinstance(threat, Sweep):
                self.curves += eps_curves(threat, [r for r in self.results if r.ood == ood.name])

    def _cell(self, cell: Cell, outcomes: dict[Threat, Outcome]) -> None:
        """The record of a cell, beside all outcomes of the same detector on the same OOD set."""
        subject = self.setup.subjects[cell.detector]
        found = indicators(cell, floors_of(cell, outcomes), subject, self._checks(cell))
        result = record(cell, found)
        if self.setup.certify:
            result = certified(result, self._guarantee(cell))
        self.results.append(result)
        self._keep(cell)
        if cell.outcome.curve:
            self.curves.append(search_curve(result, cell.outcome))
        if self.watch:
            self.watch(self._show(cell, result))

    def _checks(self, cell: Cell) -> Checks:
        """What the score itself says of a search that followed its gradient; one that broke it needs no excuse."""
        broke = left_auroc(cell.clean, cell.outcome) <= broken_at(cell.clean.metrics.auroc)
        if broke or not follows_a_gradient(cell):
            return Checks()
        return Checks(
            self.setup.explained(cell.detector, cell.ood),
            self._toward.lead(cell),
            denied_auroc(cell, self.setup.subjects[cell.detector]),
        )

    def _guarantee(self, cell: Cell) -> Certified | str:
        """What no attack within the threat can beat, or why nothing is known of that."""
        detector = self.setup.subjects[cell.detector].detector
        sets = ((ID_ROWS, self.setup.id), (f"ood/{cell.ood.name}", cell.ood.x))
        before = (cell.clean.id, cell.clean.ood)
        return self._certificates.of(detector, cell.detector, cell.threat, sets, before, cell.attacked())

    def _outcome(self, threat: ThreatModel | Suite, clean: Clean, outcomes: dict[Threat, Outcome]) -> Outcome | None:
        """What a threat did to a detector: of members that spend their own queries, each row at its worst."""
        if isinstance(threat, ThreatModel) or shares_queries(threat):
            return outcomes.get(threat)
        members = {m.name: outcomes[m] for m in threat.members if m in outcomes}
        if not members:
            return None
        left = {name: left_auroc(clean, outcome) for name, outcome in members.items()}
        strongest = members[min(left, key=left.__getitem__)]  # what it says of its search is said of the suite
        return worst(members, self.setup.keeper.room)._replace(
            members=left,
            rising_share=strongest.rising_share,
            unfinished_drop=strongest.unfinished_drop,
            unsettled_auroc=strongest.unsettled_auroc,
            restart_spread=strongest.restart_spread,
        )

    def _keep(self, cell: Cell) -> None:
        """Tell the keeper of the attacked sides; ID rows are attacked once, for each set anew by a shared budget."""
        setup, ood = self.setup, cell.ood
        on_ood = f"ood/{ood.name}"
        on_id = f"{ID_ROWS} against {ood.name}" if shares_queries(cell.threat) else ID_ROWS
        targets = setup.target_numbers(limits_of(cell.threat), ood.name, len(ood.x))
        for images, name, x, clean, side, matched in (
            (on_ood, on_ood, ood.x, cell.clean.ood, cell.outcome.ood, targets),
            (ID_ROWS, on_id, setup.id, cell.clean.id, cell.outcome.id, None),
        ):
            if side:
                attacked = Attacked(
                    detector=cell.detector,
                    threat=cell.threat,
                    ood=ood.name,
                    images=images,
                    name=name,
                    x=x,
                    clean=clean,
                    side=side,
                    targets=matched,
                )
                setup.keeper.cell(attacked)

    def _show(self, cell: Cell, result: Result) -> Shown:
        """The rows of a cell that contact sheets show: OOD rows, or ID rows where they alone were attacked."""
        setup, ood, outcome = self.setup, cell.ood, cell.outcome
        if outcome.ood:
            which, side, images, before = "ood", outcome.ood, ood.x, cell.clean.ood
        else:
            assert outcome.id is not None
            which, side, images, before = "id", outcome.id, setup.id, cell.clean.id
        rows = show_rows(len(images))
        on_device = rows.to(images.device)
        target = setup.target_rows(limits_of(cell.threat), ood.name, len(images)) if result.mape else None
        reference = setup.id[torch.arange(len(rows)) % len(setup.id)] if target is None else target[on_device]
        return Shown(
            result=result,
            reference=reference.cpu(),
            start=images[on_device].cpu(),
            x_adv=side.shown,
            reference_scores=setup.score(cell.detector, reference, "ID images"),
            start_scores=before[rows],
            x_adv_scores=side.scores[rows],
            mape=None if side.mape is None else side.mape[rows],
            side=which,
        )
