"""The cells of one evaluation, OOD set by OOD set."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from oodattack.certificates import Certificates
from oodattack.diagnose import least
from oodattack.evaluation.cell import Checks, certified, denied_auroc, follows_a_gradient, indicators, record
from oodattack.evaluation.check import check_images
from oodattack.evaluation.curves import search_curve
from oodattack.evaluation.floors import floors_of
from oodattack.evaluation.keeper import Attacked
from oodattack.evaluation.outcome import Clean, Outcome, attacked_scores, left_auroc, show_rows, worst
from oodattack.evaluation.searches import ID, Searches
from oodattack.evaluation.setup import Setup
from oodattack.evaluation.toward import Toward
from oodattack.numbers import eps_curves, numbers
from oodattack.report import Curve, Result
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
        setup.keeper.sets({ID: setup.id, **({} if setup.targets is None else {"targets": setup.targets})})
        setup.keeper.sets({f"ood/{name}": x for name, x, _ in sets})
        setup.begin({name: x for name, x, _ in sets})
        for name, subject in setup.subjects.items():
            setup.keeper.clean(name, ID, subject.id_scores)
        setup.total = sum(self.searches.cost(x, own, first=i == 0) for i, (_, x, own) in enumerate(sets))
        for ood_name, x, own in sets:
            self._set(ood_name, x, own)

    def _sets(self, threats: Sequence[Threat]) -> list[tuple[str, Tensor, list[Threat]]]:
        """(name, images, threats) of every OOD set; a threat with start images of its own has them for its OOD set."""
        setup = self.setup
        by_start: dict[str, list[Threat]] = {}
        for t in threats:
            by_start.setdefault(limits_of(t).start, []).append(t)
        on_ood = by_start.pop("ood", [])
        sets = [(name, x, on_ood) for name, x in setup.ood.items() if on_ood]
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
            sets.append((start, setup.starts[start], own))
        return sets

    def _set(self, ood_name: str, x: Tensor, threats: list[Threat]) -> None:
        """All detectors and threats on one OOD set."""
        setup = self.setup
        clean = {}
        for name in setup.detectors:
            scores = setup.score(name, x, ood_name)
            setup.keeper.clean(name, f"ood/{ood_name}", scores)
            on_id = setup.subjects[name].id_scores
            clean[name] = Clean(on_id, scores, numbers(on_id, scores))
        outcomes = self.searches.on(ood_name, x, threats, clean)
        for threat in threats:
            for judged in each_radius(threat):
                for name in setup.detectors:
                    self._cell(judged, name, ood_name, x, clean[name], outcomes[name])
            if isinstance(threat, Sweep):
                self.curves += eps_curves(threat, [r for r in self.results if r.ood == ood_name])

    def _cell(
        self,
        threat: ThreatModel | Suite,
        name: str,
        ood_name: str,
        x: Tensor,
        clean: Clean,
        outcomes: dict[Threat, Outcome],
    ) -> None:
        """The record of one detector, threat and OOD set; none where nothing of the threat fits the detector."""
        outcome = self._outcome(threat, clean, outcomes)
        if outcome is None:
            return
        subject = self.setup.subjects[name]
        lowest = floors_of(threat, clean, outcome, outcomes)
        found = indicators(
            threat, outcome, ood_name, lowest, subject, self._checks(threat, name, ood_name, x, clean, outcome)
        )
        result = record(name, threat, ood_name, clean, outcome, found)
        if self.setup.certify:
            sets = ((ID, self.setup.id), (f"ood/{ood_name}", x))
            before, after = (clean.id, clean.ood), attacked_scores(clean, outcome)
            result = certified(result, self._certificates.of(subject.detector, name, threat, sets, before, after))
        self.results.append(result)
        self._keep(threat, name, ood_name, x, clean, outcome)
        if outcome.curve:
            self.curves.append(search_curve(result, outcome))
        if self.watch:
            self.watch(self._show(result, name, threat, x, clean, outcome))

    def _checks(
        self, threat: ThreatModel | Suite, name: str, ood_name: str, x: Tensor, clean: Clean, outcome: Outcome
    ) -> Checks:
        """What the score itself says of a search that followed its gradient; one that broke it needs no excuse."""
        broke = left_auroc(clean, outcome) <= least(clean.metrics.auroc)
        if broke or not follows_a_gradient(threat, outcome):
            return Checks()
        setup = self.setup
        return Checks(
            setup.explained(name, ood_name, x),
            self._toward.lead(name, threat, ood_name, x, clean, outcome),
            denied_auroc(threat, clean, outcome, ood_name, setup.subjects[name], x[0].numel()),
        )

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

    def _keep(
        self, threat: ThreatModel | Suite, name: str, ood_name: str, x: Tensor, clean: Clean, outcome: Outcome
    ) -> None:
        """Tell the keeper of the attacked sides; ID rows are attacked once, for each set anew by a shared budget."""
        setup = self.setup
        targets = setup.target_numbers(limits_of(threat), ood_name, len(x))
        against = f"{ID} against {ood_name}" if shares_queries(threat) else ID
        for images, rows, before, scores, side, matched in (
            (f"ood/{ood_name}", f"ood/{ood_name}", x, clean.ood, outcome.ood, targets),
            (ID, against, setup.id, clean.id, outcome.id, None),
        ):
            if side:
                setup.keeper.cell(Attacked(name, threat, ood_name, images, rows, before, scores, side, matched))

    def _show(self, result: Result, name: str, threat: Threat, x: Tensor, clean: Clean, outcome: Outcome) -> Shown:
        """The rows of a cell that contact sheets show."""
        setup = self.setup
        which = "ood" if outcome.ood else "id"
        side, images, before = (outcome.ood, x, clean.ood) if outcome.ood else (outcome.id, setup.id, clean.id)
        assert side is not None
        rows = show_rows(len(images))
        target = setup.target_rows(limits_of(threat), result.ood, len(images)) if result.mape else None
        reference = setup.id[torch.arange(len(rows)) % len(setup.id)] if target is None else target[rows.to(x.device)]
        return Shown(
            result=result,
            reference=reference.cpu(),
            start=images[rows.to(x.device)].cpu(),
            x_adv=side.shown,
            reference_scores=setup.score(name, reference, "ID images"),
            start_scores=before[rows],
            x_adv_scores=side.scores[rows],
            mape=None if side.mape is None else side.mape[rows],
            side=which,
        )
