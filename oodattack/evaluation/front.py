"""Where the rows of an attacked side stand while several searches share a budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodattack.attack import COUNTS
from oodattack.data.disk import Room, copied, put
from oodattack.evaluation.outcome import ID, OOD, Scored, Side
from oodattack.metrics import auroc, id_threshold
from oodattack.numbers import TPR
from oodattack.threat import ThreatModel

HOPE = 0.1  # share of how far a row has moved in all that it may still move when its last turns brought nothing


@dataclass
class Front:
    """Where the rows of one attacked side stand. Tensors have one entry a row."""

    name: str
    x: Tensor
    clean: Tensor
    against: Tensor  # scores of the other side: clean ones, or at their best if it is attacked too
    sign: int  # ID or OOD
    budget: int  # queries that each row may spend
    best: Side
    x_adv: Tensor
    threshold: float  # accepts 95 % of the clean ID scores
    moved: Tensor  # how far its last turn brought each row, halved at each turn that brought less
    turns: int = 0
    tried: dict[str, Tensor] = field(default_factory=dict)  # how often each row has had each member
    brought: dict[str, Tensor] = field(default_factory=dict)  # how far each member's last turn brought each row
    last: dict[str, Tensor] = field(default_factory=dict)  # score that each member's last turn itself left of each row
    others: Sequence[Tensor] = field(default_factory=tuple)

    def passed(self, slack: Tensor | float = 0.0) -> Tensor:
        """Share of the other side's scores that each row has passed, or would if it moved by `slack` further."""
        ranks = torch.sort(self.sign * self.against.double()).values
        ahead = self.sign * self.best.scores.double() + slack
        return torch.searchsorted(ranks, ahead, right=False).double() / len(ranks)

    def open_rows(self, member: ThreatModel, *, trial: bool = False) -> Tensor:
        """Rows that can still change the AUROC, and can pay for a turn of a member.

        First come those that had this member least often, and of these the ones that can gain most.

        A row can change the AUROC while it has a score of the other side within reach, which it has not passed yet. Its
        reach is the largest of three: how far its last turn moved it; a tenth of how far it has moved in all; and a
        tenth of the 90th percentile, over rows, of the latter. With a member that is new to the row, it is at least the
        90th percentile of how far this one moved the rows that had it. Trials are for every row that has not passed all
        scores of the other side: a gradient that leads nowhere must not keep the other members from showing what they
        can do.
        """
        in_all = (self.sign * (self.best.scores - self.clean)).double()
        reach = torch.maximum(self.moved.double(), HOPE * in_all.clamp(min=in_all.quantile(0.9)))
        if (had := self.times(member) > 0).any():
            typical = self._brought(member)[had].double().quantile(0.9)
            reach = reach.where(had, reach.clamp(min=typical))
        gain = 1 - self.passed() if trial or not self.turns else self.passed(reach) - self.passed()
        can_pay = self.unspent() >= member.queries
        order = gain.argsort(descending=True, stable=True)
        order = order[((gain > 0) & can_pay)[order]]
        return order[self.times(member)[order].argsort(stable=True)]

    def unspent(self) -> Tensor:
        """Queries that each row has left."""
        return self.budget - self.best.queries

    def refused(self, member: ThreatModel) -> Tensor:
        """Rows that the deployed threshold did not accept before any attack, and that can pay."""
        assert self.best.crossing is not None  # a member measures it
        return ((self.best.crossing > 0) & (self.unspent() >= member.queries)).nonzero().flatten()

    def times(self, member: ThreatModel) -> Tensor:
        """How often each row has had a member, whatever the length of its turns."""
        return self.tried.setdefault(member.name, torch.zeros(len(self.x), dtype=torch.long))

    def _brought(self, member: ThreatModel) -> Tensor:
        """How far the last turn of a member brought each row."""
        return self.brought.setdefault(member.name, torch.zeros_like(self.moved))

    def take(self, member: ThreatModel, rows: Tensor, scored: Scored) -> None:
        """Book what a member brought on some rows."""
        side, best = scored.side, self.best
        won = self.sign * side.scores > self.sign * best.scores[rows]
        gained = (self.sign * (side.scores - best.scores[rows])).clamp(min=0).to(self.moved.dtype)
        self.moved[rows] = torch.maximum(gained, self.moved[rows] / 2)
        self._brought(member)[rows] = gained
        self.last.setdefault(member.name, best.scores.clone())[rows] = side.scores.to(best.scores.dtype)
        self.times(member)[rows] += 1
        for name in ("scores", "again", "scores_8bit", "distance", "stopped"):
            getattr(best, name)[rows[won]] = getattr(side, name)[won].to(getattr(best, name).dtype)
        for name in COUNTS:
            getattr(best, name)[rows] += getattr(side, name)
        best.clean_best[rows[won]] = False
        if best.crossing is not None:
            accepted = side.distance.masked_fill(side.scores.double() > self.threshold, float("inf"))
            nearest = accepted if side.crossing is None else torch.minimum(accepted, side.crossing)
            best.crossing[rows] = torch.minimum(best.crossing[rows], nearest.to(best.crossing.dtype))
        put(self.x_adv, rows, scored.x_adv, won)
        self.turns += 1


def left_auroc(fronts: Sequence[Front], scores: Sequence[Tensor] | None = None) -> float:
    """AUROC at the best rows found so far, or at other scores of them; the side that is not attacked stays clean."""
    own = [f.best.scores for f in fronts] if scores is None else scores
    by_sign = {-f.sign: f.against for f in fronts} | {f.sign: s for f, s in zip(fronts, own, strict=True)}
    return auroc(by_sign[ID], by_sign[OOD])


def restart_spread(fronts: Sequence[Front], member: ThreatModel, first: Sequence[Tensor]) -> float | None:
    """AUROC between a member's first turn and its last, of the rows that had several; None if none had.

    Args:
        fronts: the attacked sides.
        member: from whose first turn on nothing was forgotten.
        first: scores of each side after that turn.
    """
    several = [f.times(member) > 1 for f in fronts]
    if not any(bool(rows.any()) for rows in several):
        return None
    last = [f.last[member.name].where(rows, s) for f, rows, s in zip(fronts, several, first, strict=True)]
    return abs(left_auroc(fronts, first) - left_auroc(fronts, last))


def unspent_front(
    name: str,
    x: Tensor,
    clean: Tensor,
    clean_8bit: Tensor,
    against: Tensor,
    *,
    sign: int,
    budget: int,
    crossing: bool,
    others: Sequence[Tensor] = (),
    room: Room = torch.empty_like,
) -> Front:
    """A side before anything was spent on it: every row at its clean image."""
    n = len(x)
    none = torch.zeros(n, dtype=torch.long)
    threshold = id_threshold(against if sign == OOD else clean, tpr=TPR)
    far = torch.full((n,), float("inf"), dtype=torch.float64)
    best = Side(
        scores=clean.clone(),
        again=clean.clone(),
        scores_8bit=clean_8bit.where(clean_8bit.isfinite(), clean),
        distance=torch.zeros(n, dtype=torch.float64),
        queries=none.clone(),
        gradients=none.clone(),
        zero_gradients=none.clone(),
        non_finite=(~clean_8bit.isfinite()).long(),
        clean_best=torch.ones(n, dtype=torch.bool),
        stopped=none.clone(),
        mape=None,
        crossing=far.masked_fill(clean.double() <= threshold, 0.0) if crossing else None,
        history=None,
        restarts=None,
        shown=x[:0].cpu(),
    )
    return Front(
        name=name,
        x=x,
        clean=clean,
        against=against,
        sign=sign,
        budget=budget,
        best=best,
        x_adv=copied(x, room),
        threshold=threshold,
        moved=torch.zeros(n),
        others=others,
    )
