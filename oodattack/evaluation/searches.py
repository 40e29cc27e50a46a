"""What each threat did to each detector on one OOD set; searches that several detectors share are done once."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from oodattack.evaluation.curves import with_curve
from oodattack.evaluation.front import Front, unspent_front
from oodattack.evaluation.outcome import ID, OOD, Clean, OodSet, Outcome, Side
from oodattack.evaluation.plan import Group, Guide, Unfit, describe, is_blind
from oodattack.evaluation.schedule import scheduled
from oodattack.evaluation.search import Rows
from oodattack.evaluation.setup import Setup
from oodattack.evaluation.sides import attack_id, attack_ood, attack_twice
from oodattack.metrics import rank_correlation
from oodattack.report import Skipped
from oodattack.threat import Suite, Threat, ThreatModel, limits_of, members_of, shares_queries

ID_ROWS = "id"  # their name


class Searches:
    """The searches of one evaluation, and the detectors and threats for which there was none."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.skipped: list[Skipped] = []
        self._id_sides: dict[tuple[ThreatModel, str], Side] = {}

    def cost(self, ood: OodSet, threats: Sequence[Threat], *, first: bool) -> int:
        """Row-queries of the threats on one OOD set, if no row ends early; ID rows are attacked once."""
        cost, n = 0, len(ood.x)
        for threat in each(threats):
            rows = (n if threat.attacks_ood else 0) + (len(self.setup.id) if threat.attacks_id and first else 0)
            before = n * threat.after.queries if threat.after else 0
            groups, _ = self._groups(threat)
            cost += len(groups) * (threat.queries * rows + before)
        for suite in shared_budgets(threats):
            limits = limits_of(suite)
            rows = (n if limits.attacks_ood else 0) + (len(self.setup.id) if limits.attacks_id else 0)
            cost += len(self.setup.detectors) * (suite.queries or 0) * rows
        return cost

    def on(self, ood: OodSet, threats: Sequence[Threat], clean: dict[str, Clean]) -> dict[str, dict[Threat, Outcome]]:
        """Detector -> threat -> what it did: single threat models, and suites that share a budget."""
        outcomes: dict[str, dict[Threat, Outcome]] = {name: {} for name in self.setup.detectors}
        for threat in each(threats):
            for name, outcome in self._single(threat, ood, clean).items():
                outcomes[name][threat] = outcome
        for suite in shared_budgets(threats):
            for name, outcome in self._shared_budget(suite, ood, clean).items():
                outcomes[name][suite] = outcome
        return outcomes

    def _single(self, threat: ThreatModel, ood: OodSet, clean: dict[str, Clean]) -> dict[str, Outcome]:
        """One threat model on one OOD set: a search for each group of detectors, then each detector's own scores."""
        groups, unfit = self._groups(threat)
        for name, reason in unfit.items():
            self._skip(name, threat, ood, reason)
        outcomes: dict[str, Outcome] = {}
        for group in groups:
            self.setup.label = f"{threat.name} on {ood.name}: {', '.join(group.names)}"
            on_ood = self._attack_ood(group, ood, clean) if threat.attacks_ood else {}
            on_id = self._attack_id(group, ood.x) if threat.attacks_id else {}
            guide, white_box = group.guide, not is_blind(group.threat)
            approximate = white_box and not guide.exact and guide.judge is None
            for name in group.names:
                outcome = Outcome(
                    ood=on_ood.get(name),
                    id=on_id.get(name),
                    seconds=sum(side[name].seconds for side in (on_ood, on_id) if side),
                    attack=describe(group.threat),
                    white_box=white_box,
                    surrogate=guide.surrogate if white_box else None,
                    rank_correlation=self._rank_correlation(name, ood.x, clean[name]) if approximate else None,
                    shared_with=group.names,
                )
                outcomes[name] = with_curve(self.setup, guide, group.threat, ood.x, outcome)
        return outcomes

    def _attack_ood(self, group: Group, ood: OodSet, clean: dict[str, Clean]) -> dict[str, Side]:
        target = self.setup.target_rows(group.threat, ood.name, len(ood.x))
        rows = Rows(ood.name, ood.x, {n: clean[n].ood for n in group.names}, range(len(ood.x)), target)
        if group.threat.after is not None:
            return {n: attack_twice(self.setup, group._replace(names=[n]), rows) for n in group.names}
        return {n: scored.side for n, scored in attack_ood(self.setup, group, rows).items()}

    def _attack_id(self, group: Group, x: Tensor) -> dict[str, Side]:
        """Search once on the ID rows for all OOD sets: the goal is to pass every one of them."""
        setup, threat, names = self.setup, group.threat, group.names
        if any((threat, name) not in self._id_sides for name in names):
            rows = Rows(ID_ROWS, setup.id, {n: setup.subjects[n].id_scores for n in names}, range(len(setup.id)))
            found = attack_id(setup, group, rows, self._others(x))
            self._id_sides |= {(threat, n): scored.side for n, scored in found.items()}
        return {n: self._id_sides[threat, n] for n in names}

    def _others(self, x: Tensor) -> list[Tensor]:
        """All OOD images, `x` among them."""
        sets = list(self.setup.ood.values())
        return sets if any(images is x for images in sets) else [x, *sets]

    def _shared_budget(self, suite: Suite, ood: OodSet, clean: dict[str, Clean]) -> dict[str, Outcome]:
        """A suite whose members share their queries: detector by detector, for each has rows of its own left."""
        outcomes = {}
        for name, own in clean.items():
            fronts = self._fronts(suite, name, ood, own)
            try:
                outcomes[name] = scheduled(self.setup, suite, name, fronts, self._rank_correlation(name, ood.x, own))
            except Unfit as reason:
                self._skip(name, suite, ood, str(reason))
        return outcomes

    def _fronts(self, suite: Suite, name: str, ood: OodSet, clean: Clean) -> list[Front]:
        """The sides that a suite attacks, as a detector sees them."""
        setup, limits = self.setup, limits_of(suite)
        crossing = any(m.aim == "cross" for m in suite.members)

        def side(what: str, images: Tensor, scores: Tensor, against: Tensor, sign: int) -> Front:
            rounded = setup.score(name, images, "images in 8 bits", rounded=True, finite=False)
            return unspent_front(
                what, images, scores, rounded, against, sign=sign, budget=suite.queries or 0,
                crossing=crossing and sign == OOD, others=[ood.x], room=setup.keeper.room,
            )  # fmt: skip

        fronts = []
        if limits.attacks_ood:
            fronts.append(side(ood.name, ood.x, clean.ood, clean.id, OOD))
        if limits.attacks_id:
            fronts.append(side(f"{ID_ROWS} against {ood.name}", setup.id, clean.id, clean.ood, ID))
        return fronts

    def _groups(self, threat: ThreatModel) -> tuple[list[Group], dict[str, str]]:
        """Detectors that share a search; and by name those that the threat does not fit, with the reason."""
        by_plan: dict[tuple[Guide, ThreatModel], list[str]] = {}
        unfit: dict[str, str] = {}
        for name in self.setup.detectors:
            try:
                if threat.after is not None:
                    self.setup.plan(name, threat.after)
                by_plan.setdefault(self.setup.plan(name, threat), []).append(name)
            except Unfit as reason:
                unfit[name] = str(reason)
        return [Group(guide, chosen, names) for (guide, chosen), names in by_plan.items()], unfit

    def _skip(self, name: str, threat: Threat, ood: OodSet, reason: str) -> None:
        detector, _, network = name.partition("@")
        self.skipped.append(
            Skipped(detector=detector, network=network, threat=threat.name, ood=ood.name, reason=reason)
        )

    def _rank_correlation(self, name: str, x: Tensor, clean: Clean) -> float | None:
        """Of a surrogate with the detector's own score, over clean ID and OOD inputs; None for an exact one."""
        stand_in = self.setup.subjects[name].stand_in
        if stand_in is None or stand_in.exact:
            return None
        soft = torch.cat([self.setup.values(stand_in.score, images).cpu() for images in (self.setup.id, x)])
        return rank_correlation(soft, torch.cat([clean.id, clean.ood]))


def each(threats: Iterable[Threat]) -> list[ThreatModel]:
    """The single threat models behind threats that do not share a budget, each once, in order."""
    return list(dict.fromkeys(m for t in threats if not shares_queries(t) for m in members_of(t)))


def shared_budgets(threats: Iterable[Threat]) -> list[Suite]:
    """The suites whose members share their queries."""
    return [t for t in threats if isinstance(t, Suite) and shares_queries(t)]
