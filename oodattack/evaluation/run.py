"""The cells of one evaluation, OOD set by OOD set; searches that several detectors share are done once."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodattack.aims import in_batches, rows_of
from oodattack.attack import Found
from oodattack.attacks import ATTACKS
from oodattack.detector import Detector
from oodattack.evaluation.cell import Clean, Outcome, Shown, Side, indicators, numbers, record, show_rows, worst
from oodattack.evaluation.check import check_images
from oodattack.evaluation.plan import Quarry, Unfit, differentiable, quarry
from oodattack.evaluation.score import score, side_of
from oodattack.evaluation.search import Goal, search
from oodattack.geometry import row_random
from oodattack.metrics import auroc, rank_correlation
from oodattack.report import Result, Skipped
from oodattack.threat import Suite, Threat, ThreatModel, members_of

Progress = Callable[[str, int, int], None]  # (what is running, row-queries done, row-queries in all)


@dataclass
class Run:
    """The state of one call of `evaluate`: what has been searched and scored so far."""

    detectors: dict[str, Detector]
    id: Tensor
    ood: dict[str, Tensor]
    targets: Tensor | None
    starts: dict[str, Tensor]
    seed: int
    batch_size: int
    progress: Progress | None
    watch: Callable[[Shown], None] | None
    results: list[Result] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    _id_scores: dict[str, Tensor] = field(default_factory=dict)
    _steady: dict[str, dict[str, bool]] = field(default_factory=dict)
    _id_sides: dict[tuple[ThreatModel, str], tuple[Side, float]] = field(default_factory=dict)
    _done: int = 0
    _total: int = 0
    _label: str = ""

    def all(self, threats: Sequence[Threat]) -> None:
        """Run every cell.

        Raises:
            ValueError: scores that are not finite or not one a row; start images that are missing.
        """
        sets = self._sets(threats)
        self._id_scores = {name: self._score(name, self.id, "id") for name in self.detectors}
        self._steady = {name: self._steadiness(name) for name in self.detectors}
        self._total = sum(
            self._cost(x, limits, first=i == 0) for i, (_, x, own) in enumerate(sets) for limits in each(own)
        )
        for ood_name, x, own in sets:
            self._set(ood_name, x, own)

    def _sets(self, threats: Sequence[Threat]) -> list[tuple[str, Tensor, list[Threat]]]:
        """(name, images, threats) of every OOD set; a threat with start images of its own has them for its OOD set."""
        by_start: dict[str, list[Threat]] = {}
        for t in threats:
            by_start.setdefault(members_of(t)[0].start, []).append(t)
        on_ood = by_start.pop("ood", [])
        sets = [(name, x, on_ood) for name, x in self.ood.items() if on_ood]
        for start, own in by_start.items():
            if start not in self.starts:
                raise ValueError(f"`starts` must hold images for start {start!r}, got {list(self.starts)}. Add them.")
            check_images(self.starts[start], start, like=self.id)
            sets.append((start, self.starts[start], own))
        return sets

    def _cost(self, x: Tensor, limits: ThreatModel, *, first: bool) -> int:
        """Row-queries of one threat model on one OOD set, if no row ends early; ID rows are attacked once."""
        rows = (len(x) if limits.attacks_ood else 0) + (len(self.id) if limits.attacks_id and first else 0)
        return len(self._groups(limits)[0]) * limits.queries * rows

    def _advance(self, queries: int) -> None:
        self._done += queries
        if self.progress:
            self.progress(self._label, min(self._done, self._total), self._total)

    def _score(self, name: str, x: Tensor, what: str) -> Tensor:
        return score(self.detectors[name], name, x, batch_size=self.batch_size, what=what)

    def _steadiness(self, name: str) -> dict[str, bool]:
        """Whether ID scores repeat, in the same batch and one row at a time, up to rounding."""
        first = self.id[: self.batch_size]
        before = self._id_scores[name][: len(first)]
        slack = 1e-3 * (before.amax() - before.amin()) + 1e-5 * before.abs().amax()
        alone = torch.cat([self._score(name, row[None], "id") for row in first[:4]])
        return {
            "repeatable": bool(((self._score(name, first, "id") - before).abs() <= slack).all()),
            "row_independent": bool(((alone - before[: len(alone)]).abs() <= slack).all()),
        }

    def _groups(self, limits: ThreatModel) -> tuple[dict[Quarry, list[str]], dict[str, str]]:
        """Detectors that share a search, and those that the threat does not fit, with the reason."""
        groups: dict[Quarry, list[str]] = {}
        unfit: dict[str, str] = {}
        for name, d in self.detectors.items():
            try:
                groups.setdefault(quarry(d, limits, blind=is_blind(limits)), []).append(name)
            except Unfit as reason:
                unfit[name] = str(reason)
        return groups, unfit

    def _set(self, ood_name: str, x: Tensor, threats: list[Threat]) -> None:
        """All detectors and threats on one OOD set."""
        clean = {}
        for name in self.detectors:
            scores = self._score(name, x, ood_name)
            clean[name] = Clean(self._id_scores[name], scores, numbers(self._id_scores[name], scores))
        outcomes = {limits: self._limits(limits, ood_name, x, clean) for limits in each(threats)}
        left = {
            name: {m: left_auroc(clean[name], done[name]) for m, done in outcomes.items() if name in done}
            for name in self.detectors
        }
        for threat in threats:
            for name in self.detectors:
                members = {m.name: outcomes[m][name] for m in members_of(threat) if name in outcomes[m]}
                if not members:
                    continue
                outcome = worst(members) if isinstance(threat, Suite) else members[threat.name]
                blind = [m for m in left[name] if same_limits(m, threat)]
                floors = [left_auroc(clean[name], outcomes[m][name], like=threat) for m in blind]
                found = indicators(
                    outcome,
                    matching=any(m.aim in ("match", "quantile") for m in members_of(threat)),
                    random=min(floors, default=None),
                    full_box=min((a for m, a in left[name].items() if m.norm == "linf" and m.eps == 1), default=None),
                )._replace(**self._steady[name])
                parts = {m.name: left[name][m] for m in members_of(threat)} if isinstance(threat, Suite) else None
                result = record(name, threat, ood_name, clean[name], outcome, parts, found)
                self.results.append(result)
                if self.watch:
                    self.watch(self._show(result, name, threat, x, clean[name], outcome))

    def _limits(self, limits: ThreatModel, ood_name: str, x: Tensor, clean: dict[str, Clean]) -> dict[str, Outcome]:
        """One threat model on one OOD set: a search for each group of detectors, then each detector's own scores."""
        groups, unfit = self._groups(limits)
        for name, reason in unfit.items():
            detector, _, network = name.partition("@")
            self.skipped.append(
                Skipped(detector=detector, network=network, threat=limits.name, ood=ood_name, reason=reason)
            )
        outcomes: dict[str, Outcome] = {}
        for prey, names, spent in self._searches(groups, limits, x):
            self._label = f"{limits.name} on {ood_name}: {', '.join(names)}"
            white_box = not is_blind(spent)
            ood = self._attack_ood(prey, spent, names, ood_name, x, clean) if limits.attacks_ood else {}
            ids = self._attack_id(prey, spent, names, x) if limits.attacks_id else {}
            for name in names:
                sides = [side for side in (ood.get(name), ids.get(name)) if side]
                outcomes[name] = Outcome(
                    ood=ood[name][0] if ood else None,
                    id=ids[name][0] if ids else None,
                    seconds=sum(seconds for _, seconds in sides),
                    attack=describe(spent),
                    white_box=white_box,
                    surrogate=prey.surrogate if white_box else None,
                    rank_correlation=self._agreement(prey, name, x, clean[name]) if white_box else None,
                    shared_with=names,
                )
        return outcomes

    def _searches(
        self, groups: dict[Quarry, list[str]], limits: ThreatModel, x: Tensor
    ) -> Iterator[tuple[Quarry, list[str], ThreatModel]]:
        """(quarry, detectors, limits) of each search: where there is nothing to differentiate, a blind one each."""
        for prey, names in groups.items():
            if is_blind(limits) or differentiable(prey.f, x):
                yield prey, names, limits
                continue
            blind = limits.model_copy(update={"attack": "random-search", "step_size": None})
            yield from ((quarry(self.detectors[name], blind, blind=True), [name], blind) for name in names)

    def _attack_ood(
        self, prey: Quarry, limits: ThreatModel, names: list[str], ood_name: str, x: Tensor, clean: dict[str, Clean]
    ) -> dict[str, tuple[Side, float]]:
        """Search once on the OOD rows, then let each detector of the group score what came out."""
        start = time.perf_counter()
        target = self._targets(limits, ood_name, len(x))
        goal = Goal("ood", z_in=rows_of(in_batches(prey.f, target, self.batch_size))) if target is not None else None
        if goal is None:
            passed = self.targets if limits.aim == "quantile" and self.targets is not None else self.id
            confirm = self._confirm(prey, limits, {n: clean[n].id.min() for n in names}, sign=-1)
            goal = Goal("ood", beaten=in_batches(prey.f, passed, self.batch_size), confirm=confirm)
        found = self._search(prey, limits, x, goal, ood_name)
        seconds = time.perf_counter() - start
        return {n: (self._side(n, limits, x, found, clean[n].ood, target, sign=-1), seconds) for n in names}

    def _attack_id(
        self, prey: Quarry, limits: ThreatModel, names: list[str], x: Tensor
    ) -> dict[str, tuple[Side, float]]:
        """Search once on the ID rows for all OOD sets: the goal is to pass every one of them."""
        if any((limits, name) not in self._id_sides for name in names):
            start = time.perf_counter()
            others = [x, *self.ood.values()]
            beaten = torch.cat([in_batches(prey.f, other, self.batch_size) for other in others])
            tops = {n: torch.cat([self._score(n, other, "OOD") for other in others]).max() for n in names}
            confirm = self._confirm(prey, limits, tops, sign=1)
            found = self._search(prey, limits, self.id, Goal("id", beaten=beaten, confirm=confirm), "id")
            seconds = time.perf_counter() - start
            for n in names:
                side = self._side(n, limits, self.id, found, self._id_scores[n], None, sign=1)
                self._id_sides[limits, n] = (side, seconds)
        return {n: self._id_sides[limits, n] for n in names}

    def _confirm(
        self, prey: Quarry, limits: ThreatModel, bounds: dict[str, Tensor], *, sign: int
    ) -> Callable[[Tensor], Tensor] | None:
        """Whether images pass every bound on the detectors' own scores; None where the quarry's order is theirs."""
        if prey.exact or limits.aim == "quantile":
            return None

        def passes(images: Tensor) -> Tensor:
            passed = [sign * self._score(n, images, "images") > sign * bound for n, bound in bounds.items()]
            return torch.stack(passed).all(dim=0).to(images.device)

        return passes

    def _search(self, prey: Quarry, limits: ThreatModel, x: Tensor, goal: Goal, set_name: str) -> Found:
        return search(
            prey,
            limits,
            x,
            goal,
            seed=self.seed,
            key=f"{set_name}/{limits.name}",
            batch_size=self.batch_size,
            progress=self._advance,
        )

    def _targets(self, limits: ThreatModel, ood_name: str, n: int) -> Tensor | None:
        """The ID image that each of n rows is to match, or None for other aims; the same for every detector."""
        if limits.aim != "match":
            return None
        rows = torch.arange(n, device=self.id.device)
        if limits.paired:
            return self.id[rows % len(self.id)]
        assert self.targets is not None  # `evaluate` has seen to it
        order = row_random(self.seed, f"{ood_name}/targets", range(len(self.targets)), self.id.device, torch.float32)
        shuffled = order.uniform((1,)).flatten().argsort()  # every target is used before one is used twice
        return self.targets[shuffled[rows % len(self.targets)]]

    def _side(
        self,
        name: str,
        limits: ThreatModel,
        x: Tensor,
        found: Found,
        clean: Tensor,
        target: Tensor | None,
        *,
        sign: int,
    ) -> Side:
        fields = {"clean": clean, "target": target, "sign": sign, "batch_size": self.batch_size}
        return side_of(self.detectors[name], name, limits, x, found, **fields)  # type: ignore[arg-type]

    def _agreement(self, prey: Quarry, name: str, x: Tensor, clean: Clean) -> float | None:
        """Rank correlation of a surrogate score with the detector's own over clean ID and OOD inputs."""
        score = getattr(getattr(self.detectors[name], "surrogate", None), "score", None)
        if prey.exact or score is None:
            return None
        soft = torch.cat([in_batches(score, images, self.batch_size).cpu() for images in (self.id, x)])
        return rank_correlation(soft, torch.cat([clean.id, clean.ood]))

    def _show(self, result: Result, name: str, threat: Threat, x: Tensor, clean: Clean, outcome: Outcome) -> Shown:
        """The rows of a cell that contact sheets show."""
        which = "ood" if outcome.ood else "id"
        side, images, before = (outcome.ood, x, clean.ood) if outcome.ood else (outcome.id, self.id, clean.id)
        assert side is not None
        rows = show_rows(len(images))
        target = self._targets(members_of(threat)[0], result.ood, len(images)) if result.mape else None
        reference = self.id[torch.arange(len(rows)) % len(self.id)] if target is None else target[rows.to(x.device)]
        return Shown(
            result=result,
            reference=reference.cpu(),
            start=images[rows.to(x.device)].cpu(),
            x_adv=side.shown,
            reference_scores=self._score(name, reference, "ID images"),
            start_scores=before[rows],
            x_adv_scores=side.scores[rows],
            mape=None if side.mape is None else side.mape[rows],
            side=which,
        )


def each(threats: Iterable[Threat]) -> list[ThreatModel]:
    """The single threat models behind threats, each once, in order."""
    return list(dict.fromkeys(m for t in threats for m in members_of(t)))


def left_auroc(clean: Clean, outcome: Outcome, *, like: Threat | None = None) -> float:
    """AUROC after one threat model; with `like`, of the sides alone that this one attacks."""
    on_id, on_ood = (True, True) if like is None else (members_of(like)[0].attacks_id, members_of(like)[0].attacks_ood)
    return auroc(
        outcome.id.scores if outcome.id and on_id else clean.id,
        outcome.ood.scores if outcome.ood and on_ood else clean.ood,
    )


def is_blind(limits: ThreatModel) -> bool:
    """Whether the search uses no gradient."""
    return not ATTACKS[limits.attack].build(limits).white_box


def same_limits(random: ThreatModel, threat: Threat) -> bool:
    """Whether `random` is a random search with the limits of `threat`, on its sides at least, and something else."""
    one = members_of(threat)[0]
    covers = random.attacks_id >= one.attacks_id and random.attacks_ood >= one.attacks_ood
    same = (random.norm, random.eps) == (one.norm, one.eps)
    return covers and same and random.attack == "random-search" and random != threat


def describe(limits: ThreatModel) -> str:
    """The search in words."""
    step = "" if limits.step_size is None else f", step {limits.step_size:g} eps"
    return (
        f"{limits.attack}{step}, {limits.queries} queries, {limits.restarts} restart"
        f"{'s' if limits.restarts > 1 else ''}, {limits.iterate} iterate"
    )
