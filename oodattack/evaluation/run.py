"""The cells of one evaluation, OOD set by OOD set; searches that several detectors share are done once."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from oodattack.certificates import Certificates
from oodattack.evaluation.cell import certified, indicators, record
from oodattack.evaluation.check import check_images
from oodattack.evaluation.curves import queries_curve, search_curve
from oodattack.evaluation.floors import floors_of
from oodattack.evaluation.front import front
from oodattack.evaluation.keeper import Attacked
from oodattack.evaluation.outcome import Clean, Outcome, Side, attacked_scores, left_auroc, show_rows, worst
from oodattack.evaluation.plan import Quarry, Unfit, describe, is_blind
from oodattack.evaluation.schedule import scheduled
from oodattack.evaluation.search import Hunted
from oodattack.evaluation.setup import Setup
from oodattack.evaluation.sides import attack_id, attack_ood, attack_twice
from oodattack.metrics import rank_correlation
from oodattack.numbers import eps_curves, numbers
from oodattack.report import Curve, Result, Skipped
from oodattack.report.sheet import Shown
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, each_radius, limits_of, members_of, shares_queries

ID = "id"  # name of the ID rows


class Run:
    """One call of `evaluate`: what has been searched and scored so far."""

    def __init__(self, setup: Setup, watch: Callable[[Shown], None] | None) -> None:
        self.setup, self.watch = setup, watch
        self.results: list[Result] = []
        self.skipped: list[Skipped] = []
        self.curves: list[Curve] = []
        self._id_sides: dict[tuple[ThreatModel, str], Side] = {}
        self._certificates = Certificates()

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
        setup.total = sum(self._cost(x, own, first=i == 0) for i, (_, x, own) in enumerate(sets))
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

    def _cost(self, x: Tensor, threats: Sequence[Threat], *, first: bool) -> int:
        """Row-queries of the threats on one OOD set, if no row ends early; ID rows are attacked once."""
        cost = 0
        for limits in each(threats):
            rows = (len(x) if limits.attacks_ood else 0) + (len(self.setup.id) if limits.attacks_id and first else 0)
            before = len(x) * limits.after.queries if limits.after else 0
            cost += len(self._groups(limits)[0]) * (limits.queries * rows + before)
        for suite in shared_budgets(threats):
            limits = limits_of(suite)
            rows = (len(x) if limits.attacks_ood else 0) + (len(self.setup.id) if limits.attacks_id else 0)
            cost += len(self.setup.detectors) * (suite.queries or 0) * rows
        return cost

    def _groups(self, limits: ThreatModel) -> tuple[dict[tuple[Quarry, ThreatModel], list[str]], dict[str, str]]:
        """Detectors that share a search, by what it follows and how; those that the threat does not fit, with why."""
        groups: dict[tuple[Quarry, ThreatModel], list[str]] = {}
        unfit: dict[str, str] = {}
        for name in self.setup.detectors:
            try:
                groups.setdefault(self.setup.plan(name, limits), []).append(name)
            except Unfit as reason:
                unfit[name] = str(reason)
        return groups, unfit

    def _set(self, ood_name: str, x: Tensor, threats: list[Threat]) -> None:
        """All detectors and threats on one OOD set."""
        setup = self.setup
        clean = {}
        for name in setup.detectors:
            scores = setup.score(name, x, ood_name)
            setup.keeper.clean(name, f"ood/{ood_name}", scores)
            on_id = setup.subjects[name].id_scores
            clean[name] = Clean(on_id, scores, numbers(on_id, scores))
        outcomes: dict[str, dict[Threat, Outcome]] = {name: {} for name in setup.detectors}
        for limits in each(threats):
            for name, outcome in self._limits(limits, ood_name, x, clean).items():
                outcomes[name][limits] = outcome
        for suite in shared_budgets(threats):
            for name, outcome in self._shared_budget(suite, ood_name, x, clean).items():
                outcomes[name][suite] = outcome
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
        found = indicators(threat, outcome, ood_name, lowest, subject)
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

    def _limits(self, limits: ThreatModel, ood_name: str, x: Tensor, clean: dict[str, Clean]) -> dict[str, Outcome]:
        """One threat model on one OOD set: a search for each group of detectors, then each detector's own scores."""
        groups, unfit = self._groups(limits)
        for name, reason in unfit.items():
            self._skip(name, limits, ood_name, reason)
        outcomes: dict[str, Outcome] = {}
        for (prey, spent), names in groups.items():
            self.setup.label = f"{limits.name} on {ood_name}: {', '.join(names)}"
            ood = self._attack_ood(prey, spent, names, ood_name, x, clean) if limits.attacks_ood else {}
            ids = self._attack_id(prey, spent, names, x) if limits.attacks_id else {}
            white_box = not is_blind(spent)
            for name in names:
                outcome = Outcome(
                    ood=ood.get(name),
                    id=ids.get(name),
                    seconds=sum(side[name].seconds for side in (ood, ids) if side),
                    attack=describe(spent),
                    white_box=white_box,
                    surrogate=prey.surrogate if white_box else None,
                    rank_correlation=self._agreement(prey, name, x, clean[name]) if white_box else None,
                    shared_with=names,
                )
                outcomes[name] = queries_curve(self.setup, prey, spent, x, outcome)
        return outcomes

    def _attack_ood(
        self, prey: Quarry, limits: ThreatModel, names: list[str], ood_name: str, x: Tensor, clean: dict[str, Clean]
    ) -> dict[str, Side]:
        target = self.setup.target_rows(limits, ood_name, len(x))
        rows = Hunted(ood_name, x, {n: clean[n].ood for n in names}, range(len(x)), target)
        if limits.after is not None:
            return {n: attack_twice(self.setup, prey, limits, n, rows) for n in names}
        return {n: scored.side for n, scored in attack_ood(self.setup, prey, limits, names, rows).items()}

    def _attack_id(self, prey: Quarry, limits: ThreatModel, names: list[str], x: Tensor) -> dict[str, Side]:
        """Search once on the ID rows for all OOD sets: the goal is to pass every one of them."""
        setup = self.setup
        if any((limits, name) not in self._id_sides for name in names):
            rows = Hunted(ID, setup.id, {n: setup.subjects[n].id_scores for n in names}, range(len(setup.id)))
            found = attack_id(setup, prey, limits, names, rows, self._others(x))
            self._id_sides |= {(limits, n): scored.side for n, scored in found.items()}
        return {n: self._id_sides[limits, n] for n in names}

    def _others(self, x: Tensor) -> list[Tensor]:
        """All OOD images, `x` among them."""
        sets = list(self.setup.ood.values())
        return sets if any(images is x for images in sets) else [x, *sets]

    def _shared_budget(self, suite: Suite, ood_name: str, x: Tensor, clean: dict[str, Clean]) -> dict[str, Outcome]:
        """A suite whose members share their queries: detector by detector, for each has rows of its own left."""
        setup, limits = self.setup, limits_of(suite)
        crossing = any(m.aim == "cross" for m in suite.members)
        outcomes = {}
        for name in setup.detectors:
            sides = []
            for sign, images, own, other in (
                (-1, x, clean[name].ood, clean[name].id),
                (1, setup.id, clean[name].id, clean[name].ood),
            ):
                if not (limits.attacks_ood if sign < 0 else limits.attacks_id):
                    continue
                rounded = setup.score(name, images, "images in 8 bits", rounded=True, finite=False)
                sides.append(
                    front(
                        ood_name if sign < 0 else f"{ID} against {ood_name}", images, own, rounded, other,
                        sign=sign, budget=suite.queries or 0, crossing=crossing and sign < 0, others=[x],
                        room=setup.keeper.room,
                    )
                )  # fmt: skip
            try:
                outcomes[name] = scheduled(setup, suite, name, sides, self._agreement_of(name, x, clean[name]))
            except Unfit as reason:
                self._skip(name, suite, ood_name, str(reason))
        return outcomes

    def _skip(self, name: str, threat: Threat, ood_name: str, reason: str) -> None:
        detector, _, network = name.partition("@")
        self.skipped.append(
            Skipped(detector=detector, network=network, threat=threat.name, ood=ood_name, reason=reason)
        )

    def _agreement(self, prey: Quarry, name: str, x: Tensor, clean: Clean) -> float | None:
        """Rank correlation of a surrogate with the score, where the search follows one."""
        return None if prey.exact or prey.judge is not None else self._agreement_of(name, x, clean)

    def _agreement_of(self, name: str, x: Tensor, clean: Clean) -> float | None:
        """Rank correlation of a surrogate score with the detector's own over clean ID and OOD inputs."""
        stand_in = self.setup.subjects[name].stand_in
        if stand_in is None or stand_in.exact:
            return None
        soft = torch.cat([self.setup.values(stand_in.score, images).cpu() for images in (self.setup.id, x)])
        return rank_correlation(soft, torch.cat([clean.id, clean.ood]))

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


def each(threats: Iterable[Threat]) -> list[ThreatModel]:
    """The single threat models behind threats that do not share a budget, each once, in order."""
    return list(dict.fromkeys(m for t in threats if not shares_queries(t) for m in members_of(t)))


def shared_budgets(threats: Iterable[Threat]) -> list[Suite]:
    """The suites whose members share their queries."""
    return [t for t in threats if isinstance(t, Suite) and shares_queries(t)]
