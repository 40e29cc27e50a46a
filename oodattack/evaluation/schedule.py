"""A suite whose members share one budget: passes go to the rows that can still change the AUROC.

In the spirit of AutoAttack's cascade (Croce & Hein, arXiv:2003.01690, section 5), for scores: there a row is finished
when its class changes, here when its score has passed every score of the other side.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from torch import Tensor

from oodattack.data.disk import picked
from oodattack.evaluation.curves import unfinished
from oodattack.evaluation.front import Front, left_auroc, restart_spread
from oodattack.evaluation.members import fitting, short_name
from oodattack.evaluation.outcome import ID, OOD, Outcome, Scored, Side, show_rows
from oodattack.evaluation.plan import Group, Guide, is_blind
from oodattack.evaluation.search import Rows
from oodattack.evaluation.setup import Setup
from oodattack.evaluation.sides import attack_id, attack_ood
from oodattack.evaluation.turn import MANY, longer, turn_lengths, turn_rows
from oodattack.threat import Suite, ThreatModel

# What a turn must have brought for its member to have another one.
WORTH = 1e-3  # AUROC, of a turn on all rows, and in proportion on fewer,
WORTH_SHARE = 0.02  # or this share of the AUROC that was left, where that is less,
WORTH_AT_LEAST = 1e-9  # and more than rounding

# How long a turn is, in a member's own queries.
QUICK = 0.3  # after a turn that finished such a share of its rows the next one is short: 1, 2, 4, 4, ... times these
DOUBLINGS = 2  # from 1 to 4
ROOM = 3  # a budget of fewer leaves no room for a longer turn after the first: then it is one search

# Whether the two best members are compared in long trials before one of them has its first long turn.
LONG = 12 * MANY  # only where so many rows are open, of which both trials take a sixth,
AHEAD = 4  # and unless the best was worth so many times as much as the second


class Took(NamedTuple):
    """What a turn or trial brought."""

    worth: float  # share of the AUROC left that it took per query, or 0 where that was not worth it
    finished: float = 0.0  # share of its rows that have passed every score of the other side since


@dataclass
class Standing:
    """How a member has done so far.

    Attributes:
        took: in its last turn or trial.
        going: whether it may have further turns: until one on all open rows brings nothing. Members for the threshold
            (aim "cross") have a single turn, on every row.
        turns: how many it had on all open rows; trials do not count.
    """

    took: Took
    going: bool
    turns: int


@dataclass
class Spending:
    """How a suite spends its budget on one detector and OOD set; see `scheduled`.

    Attributes:
        setup: of the evaluation.
        suite: with `queries`.
        name: of the detector.
        fronts: the attacked sides.
        plan: the members that suit the detector, and what each of them follows.
        curve: (queries a row, AUROC left), before the first turn and after each.
        standings: of the members that have had a turn or trial.
        members: what the report calls a member -> AUROC left after its first turn or trial.
        started: scores of each side after the first turn.
        blind: AUROC that members without a gradient took since.
    """

    setup: Setup
    suite: Suite
    name: str
    fronts: Sequence[Front]
    plan: dict[ThreatModel, Guide]
    curve: list[tuple[float, float]]
    standings: dict[ThreatModel, Standing] = field(default_factory=dict)
    members: dict[str, float] = field(default_factory=dict)
    started: list[Tensor] = field(default_factory=list)
    blind: float = 0.0

    def trials(self) -> None:
        """All rows for the first member; a few for each of the others, and last for the first one again."""
        first = next(iter(self.plan))
        for member in self.plan:
            took = self.take(member, trial=member != first)
            self.standings[member] = Standing(took, going=member.aim != "cross", turns=int(member == first))
            self.members[short_name(member, self.suite)] = self.curve[-1][1]
            if member == first:
                self.started, self.blind = [f.best.scores.clone() for f in self.fronts], 0.0
        if self.standings[first].going and len(self.plan) > 1:
            # what it took from clean rows says nothing of another turn
            self.standings[first].took = self.take(first, trial=True, times=2)

    def one_search(self) -> None:
        """One search of each row: by the first member, a longer one or one on the logits; a few rows say which."""
        first = next(iter(self.plan))
        steady = [m for m in self.plan if m.aim != "cross" and m.draws is None and not is_blind(m)]
        long = next((m for m in steady if m.queries > first.queries), first)
        on_logits = next((m for m in steady if m.objective == "logits"), first)
        rivals = dict.fromkeys((first, long, on_logits))
        member = max(rivals, key=self._taken_from_a_row) if len(rivals) > 1 else first
        self.take(member, share=1.0)
        self.members[short_name(member, self.suite)] = self.curve[-1][1]
        self.started = [f.best.scores.clone() for f in self.fronts]

    def _taken_from_a_row(self, member: ThreatModel) -> float:
        """AUROC that one search by a member takes of a few rows, for each of them."""
        before, left = [f.unspent() for f in self.fronts], left_auroc(self.fronts)
        self.take(member, trial=True, share=1.0)
        self.members[short_name(member, self.suite)] = self.curve[-1][1]
        rows = sum(int((f.unspent() < b).sum()) for f, b in zip(self.fronts, before, strict=True))
        return (left - left_auroc(self.fronts)) / max(1, rows)

    def go_on(self) -> None:
        """Turns after the trials, until none brings anything; see `scheduled`."""
        had: set[ThreatModel] = set()  # members that have had a long turn in this round
        compared = False
        while going := [m for m, standing in self.standings.items() if standing.going]:
            if had >= set(going):
                had.clear()
            waiting = [m for m in going if m not in had]
            member = max(waiting, key=self._worth)
            share = self._share(member, waiting)
            if not compared and not self._quick(member):  # the first long turn
                compared = True
                if rivals := self._rivals(waiting):
                    member, share = self._better_in_long_trials(rivals), 1.0
                    if not self._worth(member):
                        continue  # neither of them, then
            if self._quick(member):
                self._turn(member, times=1 << min(self.standings[member].turns, DOUBLINGS))
            else:
                had.add(member)
                self._turn(member, share=share)

    def _turn(self, member: ThreatModel, *, times: int = 1, share: float = 0.0) -> None:
        """A member's turn on all open rows, see `take`; it is out when that brings nothing."""
        standing = self.standings[member]
        standing.took = self.take(member, times=times, share=share)
        standing.turns += 1
        standing.going = standing.took.worth > 0

    def _better_in_long_trials(self, rivals: Sequence[ThreatModel]) -> ThreatModel:
        """The member that is worth more in one search of all that a few rows have left."""
        for member in rivals:
            self.standings[member].took = self.take(member, trial=True, share=1.0)
        return max(rivals, key=self._worth)

    def take(self, member: ThreatModel, *, trial: bool = False, times: int = 1, share: float = 0.0) -> Took:
        """One member's turn on the open rows, and what it brought.

        Worth is in shares of the AUROC that was left: turns are compared that were taken at different times, and there
        is ever less to take.

        Args:
            member: whose turn it is.
            trial: whether a few of the open rows will do.
            times: of the member's own queries, which each row gets,
            share: or this share of what the row has left, where that is more. A row that cannot pay for it gets as many
                times the member's own queries as it can pay for.
        """
        fronts, before = self.fronts, left_auroc(self.fronts)
        queries = searched = finished = 0  # finished: rows that have passed every score of the other side since
        self.setup.label = f"{member.name} on {fronts[0].name}: {self.name}"
        for front in fronts:
            rows = turn_rows(front, longer(member, member.queries * (times if trial else 1)), trial=trial)
            lengths = turn_lengths(member, front.unspent()[rows], times=times, share=share)
            finished_before = front.passed()[rows] >= 1
            for length in lengths.unique().flip(0).tolist():
                some = rows[lengths == length]
                found = self._attacked(member, length, front, some)
                front.take(member, some, found)
                queries += int(found.side.queries.sum())
                searched += len(some)
            finished += int(((front.passed()[rows] >= 1) & ~finished_before).sum())
        after, everybody = left_auroc(fronts), sum(len(f.x) for f in fronts)
        if searched:
            self.curve.append((sum(int(f.best.queries.sum()) for f in fronts) / everybody, after))
        self.blind += (before - after) * is_blind(member)
        enough = min(WORTH, WORTH_SHARE * before) * searched / everybody
        if not searched or before - after < max(enough, WORTH_AT_LEAST):
            return Took(worth=0.0)
        return Took(worth=(1 - after / before) / queries, finished=finished / searched)

    def outcome(self, rank_correlation: float | None, start: float) -> Outcome:
        """What it came to; `start` is the time at which it began."""
        fronts, plan = self.fronts, self.plan
        sides = {f.sign: _side(self.setup, f) for f in fronts}
        used = [guide.surrogate for guide in plan.values() if guide.surrogate and guide.judge is None]
        white_box = any(not is_blind(member) for member in plan)
        return Outcome(
            ood=sides.get(OOD),
            id=sides.get(ID),
            seconds=time.perf_counter() - start,
            attack=f"{', '.join(self.members)} on the rows still open, {self.suite.queries} queries a row",
            white_box=white_box,
            surrogate=next(iter(used), None),
            rank_correlation=rank_correlation if used else None,
            shared_with=[self.name],
            curve=self.curve,
            unfinished_drop=unfinished(self.curve),
            restart_spread=restart_spread(fronts, next(iter(plan)), self.started),
            members=self.members,
            found_blindly=self.blind if white_box else None,
        )

    def _attacked(self, member: ThreatModel, queries: int, front: Front, rows: Tensor) -> Scored:
        """A member's search on some rows of a side, of so many queries."""
        group = Group(self.plan[member], longer(member, queries), [self.name])
        images = picked(front.x, rows, self.setup.keeper.room)
        attacked = Rows(front.name, images, {self.name: front.clean[rows]}, rows.tolist(), round=front.turns)
        if front.sign == OOD:
            return attack_ood(self.setup, group, attacked)[self.name]
        return attack_id(self.setup, group, attacked, front.others)[self.name]

    def _worth(self, member: ThreatModel) -> float:
        """Of a member's last turn or trial."""
        return self.standings[member].took.worth

    def _quick(self, member: ThreatModel) -> bool:
        """Whether its last turn or trial finished so many rows that longer searches are not what they need."""
        return self.standings[member].took.finished >= QUICK

    def _share(self, member: ThreatModel, going: Sequence[ThreatModel]) -> float:
        """Of what rows have left, for one of several members."""
        total = sum(self._worth(m) for m in going)
        return self._worth(member) / total if total else 1 / len(going)

    def _rivals(self, going: Sequence[ThreatModel]) -> list[ThreatModel]:
        """The two members that were worth most; none where it does not pay to compare them in longer trials.

        That is where few rows are open, or one is so far ahead that a longer trial would say the same.
        """
        if _open(self.fronts) < LONG:
            return []
        best = sorted(going, key=self._worth, reverse=True)[:2]
        return best if len(best) == 2 and self._worth(best[1]) * AHEAD > self._worth(best[0]) else []


def scheduled(
    setup: Setup, suite: Suite, name: str, fronts: Sequence[Front], rank_correlation: float | None
) -> Outcome:
    """Spend the budget of a suite on one detector and OOD set.

    The first member has all rows; then each of the others is tried on a few of those that are still open, and last the
    first one again. From then on the member that took the largest share of the AUROC per query goes on, on the rows
    that had it least and from other random starts. While its turns finish rows they double from one to the next. Where
    they do not, one long search goes further than two short ones: members then share what a row has left as they were
    worth, each in one search, before anybody has another. Short trials say little about long searches: where many rows
    are open, the two best members first get a few of them each, in one search of all that these rows have left, and the
    better of the two gets the others. A member is out when a turn on all open rows brings nothing. Where the budget
    leaves no room for a turn longer than the first, each row has one search of all there is: a second one would begin
    anew, and end where the first one has been.

    Args:
        setup: of the evaluation.
        suite: with `queries`.
        name: of the detector.
        fronts: the attacked sides.
        rank_correlation: of its surrogate with its score, if it has one.

    Raises:
        Unfit: no member suits the detector.
    """
    start, before_us = time.perf_counter(), setup.done
    plan = fitting(setup, suite, name)
    for front, other in permutations(fronts, 2):
        front.against = other.best.scores  # the tensor itself: what a row has to pass moves with the other side
    spending = Spending(setup, suite, name, fronts, plan, curve=[(0.0, left_auroc(fronts))])
    if (suite.queries or 0) < ROOM * next(iter(plan)).queries:
        spending.one_search()
    else:
        spending.trials()
        spending.go_on()
    budget = (suite.queries or 0) * sum(len(f.x) for f in fronts)
    setup.advance(max(before_us + budget - setup.done, 0))  # what nobody needed
    return spending.outcome(rank_correlation, start)


def _side(setup: Setup, front: Front) -> Side:
    """What is left of a front when its budget is spent."""
    shown = front.x_adv[show_rows(len(front.x_adv)).to(front.x.device)].cpu()
    kept = setup.keeper.kept(front.x_adv)
    start = None if kept is None else front.x
    return front.best._replace(scores=front.best.again, shown=shown, images=kept, start=start)


def _open(fronts: Sequence[Front]) -> int:
    """How many rows have not passed every score of the other side."""
    return sum(int((front.passed() < 1).sum()) for front in fronts)
