"""Rows that are searched together: what is given to `maximise`, once for each loss that they follow."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import COUNTS, Found, Whole, maximise
from oodattack.attacks import find_attack, hop_skip_jump
from oodattack.classifier.copies import searching
from oodattack.evaluation.goal import Goal, Objective
from oodattack.evaluation.race import points_of_each, race
from oodattack.evaluation.setup import Precision
from oodattack.geometry import RowRandom
from oodattack.loss import AnyLoss, Judged, unjudged
from oodattack.threat import ThreatModel

ENOUGH_POINTS = 3  # points of each of several losses: the clean one, a first one and a step from there


class Part(NamedTuple):
    """Rows that are searched together, as many of a block as fit into memory, and what their search needs.

    Attributes:
        objective: the losses that they follow, each with a share of the queries.
        threat: limits, how to search, and the queries that are left.
        goal: what the search is after.
        x: images before the search, shape (B, C, H, W).
        random: one stream of random numbers a row.
        precision: of the networks.
        progress: told the number of row-queries just spent or saved.
    """

    objective: Objective
    threat: ThreatModel
    goal: Goal
    x: Tensor
    random: RowRandom
    precision: Precision
    progress: Callable[[int], None]

    def search(self) -> Found:
        """A search for each loss, one after the other, on the rows that are not finished yet."""
        everybody = torch.arange(len(self.x), device=self.x.device)
        if len(self.objective.losses) == 1:
            return self.follow(0, self.threat, everybody)
        chosen, spent = self._raced()
        losses, enough = chosen.objective.losses, chosen.objective.enough
        best: Found | None = None
        for i, queries in enumerate(shares(chosen.threat, len(losses))):
            share, still = self.threat.model_copy(update={"queries": queries, "restarts": 1}), everybody
            if best is not None and enough is not None:
                still = (best.value < enough).nonzero().flatten()
                self.progress((len(self.x) - len(still)) * share.queries)
            if len(still):
                found = chosen.follow(i, share, still)
                best = found if best is None else better(best, found, still)
        assert best is not None
        best = best._replace(**{name: getattr(best, name) + count for name, count in spent.items()})
        return best._replace(history=None, restarts=None)  # which are of one loss, and not of every row

    def follow(self, which: int, threat: ThreatModel, still: Tensor) -> Found:
        """A search for one of the losses, of some rows; losses and judge know rows by their place in the part."""
        loss, judge, enough = self.objective.losses[which], self.objective.judge, self.objective.enough
        draws, x, random = threat.draws or 1, self.x[still], self.random.take(still)
        options = {
            "keep_clean": threat.by_score,
            "enough": enough[still] if enough is not None and threat.iterate == "best" else None,
            "confirm": self.goal.confirm,
            "judge": None if judge is None else averaged(lambda z, rows: judge(z, still[rows]), draws),
            "crossing": self.objective.crossing,
            "progress": self.progress,
        }
        fast_loss = fast(averaged(lambda z, rows: loss(z, still[rows]), draws), self.precision)
        beyond = self.goal.beyond
        attack = hop_skip_jump(images=beyond) if threat.attack == "hop-skip-jump" else find_attack(threat)
        if isinstance(attack, Whole):
            return attack.search(unjudged(fast_loss), x, threat, random, **options)
        if self.objective.judged:
            options["judge"] = None
        return maximise(fast_loss, x, threat, attack, random, **options)  # type: ignore[arg-type]

    def _raced(self) -> tuple["Part", dict[str, Tensor]]:
        """The same with the losses that a race chose for each row and the queries it left; and what the race counted.

        Without a race, the first losses, which are the likeliest.
        """
        asked, threat = self.objective, self.threat
        if asked.own is None:
            return self, {}
        racing, points = points_of_each(threat, len(asked.losses))
        if not racing:
            return self._replace(objective=asked._replace(losses=asked.losses[: threat.restarts])), {}
        draws, search = threat.draws or 1, object()
        losses = [unjudged(fast(averaged(loss, draws), self.precision, search)) for loss in asked.losses[:racing]]
        places, counts = race(losses, points, self.x, threat, self.random, self.progress)
        left = threat.model_copy(update={"queries": threat.queries - racing * points * draws})
        if asked.home is not None and len(places) > 1:  # the last of them is for where the other side is hard to pass
            known = (places[:-1] == asked.home).any(dim=0)
            places = torch.cat((places[:-1], places[-1:].where(known, asked.home)))
        chosen = asked._replace(losses=[asked.own(which) for which in places])
        return self._replace(objective=chosen, threat=left), counts


def shares(threat: ThreatModel, losses: int) -> list[int]:
    """Queries of each loss, in whole draws; of as many losses as can have `ENOUGH_POINTS` each, at least of one."""
    draws = threat.draws or 1
    points = threat.queries // draws
    several = max(1, min(losses, points // ENOUGH_POINTS))
    return [draws * (points // several + (i < points % several)) for i in range(several)]


def better(best: Found, found: Found, rows: Tensor) -> Found:
    """The better point of each row from two searches, and the queries of both; the second is of some rows only."""
    won = found.value > best.value[rows]
    x_adv, value, clean, stopped = (part.clone() for part in (best.x_adv, best.value, best.clean_best, best.stopped))
    x_adv[rows[won]], value[rows[won]], clean[rows[won]] = found.x_adv[won], found.value[won], found.clean_best[won]
    stopped[rows] = found.stopped
    counts = {}
    for name in COUNTS:
        counts[name] = getattr(best, name).index_add(0, rows, getattr(found, name))
    return best._replace(x_adv=x_adv, value=value, clean_best=clean, stopped=stopped, **counts)


def fast(loss: AnyLoss, precision: Precision = "full", search: object | None = None) -> AnyLoss:
    """The same loss on folded copies of the networks, or in reduced precision as well.

    Args:
        loss: any.
        precision: see `Precision`.
        search: see `classifier.copies.searching`; one for losses that belong together. None: a new one.
    """
    search = search or object()

    def folded(x: Tensor, rows: Tensor) -> Tensor | Judged:
        with ExitStack() as stack:
            stack.enter_context(searching(search))
            if precision == "bfloat16":
                stack.enter_context(torch.autocast(x.device.type, dtype=torch.bfloat16))
            told = loss(x, rows)
            return Judged(*[whole(t, x) for t in told]) if isinstance(told, Judged) else whole(told, x)

    return folded


def whole(value: Tensor, x: Tensor) -> Tensor:
    """In the precision of the images at least: reduced precision ends here."""
    return value.to(torch.promote_types(value.dtype, x.dtype))


def averaged(loss: AnyLoss, draws: int) -> AnyLoss:
    """Expectation over transformation: the mean of several calls, for detectors that use random numbers.

    Athalye et al., "Synthesizing Robust Adversarial Examples", arXiv:1707.07397, section 2.
    """
    if draws == 1:
        return loss

    def mean(x: Tensor, rows: Tensor) -> Tensor | Judged:
        told = [loss(x, rows) for _ in range(draws)]
        each = [one if isinstance(one, Judged) else (one,) for one in told]
        means = [torch.stack(values).mean(dim=0) for values in zip(*each, strict=True)]
        return Judged(*means) if len(means) > 1 else means[0]

    return mean
