"""One search: a quarry, a threat model, a set of images. Returns images that are known to obey the threat model."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import COUNTS, Found, Loss, Whole, maximise
from oodattack.attacks import find_attack, hop_skip_jump
from oodattack.classifier import searching
from oodattack.data.disk import forget_pages, placed
from oodattack.evaluation.batch import answered, in_blocks
from oodattack.evaluation.block_key import block_key, block_seed
from oodattack.evaluation.goal import Goal, Objective, objective
from oodattack.evaluation.plan import Group, Quarry
from oodattack.evaluation.race import points_of_each, race
from oodattack.evaluation.setup import Precision, Setup
from oodattack.geometry import RowRandom, row_random
from oodattack.threat import ThreatModel

ENOUGH_POINTS = 3  # points of each of several losses: the clean one, a first one and a step from there


class Rows(NamedTuple):
    """Rows of one set that are attacked.

    Attributes:
        name: of the set, part of the key of their random numbers.
        x: images before the search, shape (N, C, H, W).
        clean: detector -> its scores of `x`, shape (N,).
        numbers: N numbers that identify the rows in the set.
        target: ID image that each row is to match, or None.
        round: of a suite that shares its queries; another round is another random start.
    """

    name: str
    x: Tensor
    clean: dict[str, Tensor]
    numbers: Sequence[int]
    target: Tensor | None = None
    round: int = 0


def search(setup: Setup, group: Group, attacked: Rows, goal: Goal) -> Found:
    """Attack all rows, block by block.

    Every random number of ours comes from (seed, key, number of the row), so the blocks do not matter beyond rounding;
    but scores and attacks that draw from torch's own numbers draw others in other blocks. Their borders are fixed, so
    that the keeper may have a block from an earlier run or from another process: what is computed here is the same, to
    the last bit.

    Args:
        setup: of the evaluation; its `advance` is told the number of row-queries just spent or saved.
        group: what is followed and how, and for whom.
        attacked: the rows.
        goal: what the search is after.

    Raises:
        RuntimeError: a returned image leaves the threat model, which would be a bug.
        ValueError: one image alone does not fit in memory, or the detector fails.
        FloatingPointError: what is followed is not finite on the rows before the search; one line.
    """
    x, blocks = attacked.x, _Blocks(setup, group, attacked, goal)
    x_adv = setup.keeper.room(x)  # filled block by block: two copies of all images would be one too many
    whole: dict[str, Tensor | None] = {}
    found_blocks = setup.keeper.blocks(len(blocks.rows), blocks.name, blocks.found)
    for rows, found in zip(blocks.rows, found_blocks, strict=True):
        block = Found(*[None if t is None else t.to(x.device) for t in found])  # type: ignore[arg-type]
        verify(block.x_adv, x[rows], group.threat)
        x_adv[rows] = block.x_adv
        beside = {field: t for field, t in block._asdict().items() if field != "x_adv"}
        whole |= {f: None if t is None else placed(t, rows, len(x), whole.get(f)) for f, t in beside.items()}
        blocks.settle(rows)
        forget_pages()
    return Found(**whole | {"x_adv": x_adv})  # type: ignore[arg-type]


class _Blocks:
    """The blocks of one search: their rows, their names, and how one is computed."""

    def __init__(self, setup: Setup, group: Group, attacked: Rows, goal: Goal) -> None:
        self.setup, self.group, self.attacked, self.goal = setup, group, attacked, goal
        n, size = len(attacked.x), setup.batch.block
        self.rows = [slice(first, min(first + size, n)) for first in range(0, n, size)]
        self.key = f"{attacked.name}/{group.threat.name}" + (f"/{attacked.round}" if attacked.round else "")
        self.who = ", ".join(group.names)
        self.told = 0  # row-queries of the block at hand that the user knows of

    def name(self, i: int) -> str:
        """SHA-256 of everything that decides what comes out of block i."""
        rows, goal = self.rows[i], self.goal
        words: dict[str, object] = {
            "seed": self.setup.seed,
            "key": self.key,
            "who": self.who,
            "side": goal.side,
            "precision": self.setup.precision,
            "threat": self.group.threat.model_dump_json(),
            "follows": self.group.quarry.surrogate,
            "rows": list(self.attacked.numbers[rows]),
        }
        targets = None if goal.targets is None else goal.targets[rows]
        return block_key(words, (self.attacked.x[rows], goal.beaten, targets))

    def found(self, i: int) -> Found:
        """Block i, computed now, in parts that fit into memory."""
        rows, device = self.rows[i], self.attacked.x.device

        def part(within: slice) -> Found:
            return self._part(slice(rows.start + within.start, rows.start + within.stop))

        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(block_seed(self.setup.seed, self.key, int(self.attacked.numbers[rows.start])))
            return joined(in_blocks(rows.stop - rows.start, self.setup.batch, part))

    def settle(self, rows: slice) -> None:
        """Tell the user of a finished block's queries that it has not heard of: of a block that the keeper had, all."""
        self.setup.advance(max((rows.stop - rows.start) * self.group.threat.queries - self.told, 0))
        self.told = 0

    def _tell(self, queries: int) -> None:
        self.told += queries
        self.setup.advance(queries)

    def _part(self, rows: slice) -> Found:
        setup, threat, x = self.setup, self.group.threat, self.attacked.x[rows]
        random = row_random(setup.seed, self.key, self.attacked.numbers[rows], x.device, x.dtype)
        quarry = _answering(self.group.quarry)
        try:
            asked = objective(quarry, threat, self.goal, x, rows)
            return _Part(asked, threat, self.goal, x, random, setup.precision, self._tell).found()
        except FloatingPointError as error:
            found, _, _ = str(error).partition(". ")
            raise FloatingPointError(
                f"{self.who}, {threat.name} on {self.attacked.name}: {found}. Correct {followed(quarry, threat)} that "
                "the search follows, or leave the threat out."
            ) from None


def _answering(quarry: Quarry) -> Quarry:
    """The same, but for a ValueError in one line where a user's code fails."""
    judge = None if quarry.judge is None else partial(answered, quarry.judge)
    return quarry._replace(f=partial(answered, quarry.f), judge=judge)


def followed(quarry: Quarry, threat: ThreatModel) -> str:
    """What a search follows, in words; a judge is asked about the clean images in its place."""
    if quarry.surrogate is not None:
        return f"the surrogate {quarry.surrogate!r}"
    what = threat.match or ("logits" if threat.objective == "misclassify" else threat.objective)
    return f"the {what or 'score'}" if quarry.judge is None else f"the {what} or the score"


class _Part(NamedTuple):
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

    def found(self) -> Found:
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
            return attack.search(fast_loss, x, threat, random, **options)
        return maximise(fast_loss, x, threat, attack, random, **options)  # type: ignore[arg-type]

    def _raced(self) -> tuple["_Part", dict[str, Tensor]]:
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
        losses = [fast(averaged(loss, draws), self.precision, search) for loss in asked.losses[:racing]]
        places, counts = race(losses, points, self.x, threat, self.random, self.progress)
        left = threat.model_copy(update={"queries": threat.queries - racing * points * draws})
        chosen = asked._replace(losses=[asked.own(which) for which in places])
        return self._replace(objective=chosen, threat=left), counts


def shares(threat: ThreatModel, losses: int) -> list[int]:
    """Queries of each loss, in whole draws; of as many losses as can have `ENOUGH_POINTS` each, at least of one."""
    draws = threat.draws or 1
    points = threat.queries // draws
    several = max(1, min(losses, points // ENOUGH_POINTS))
    return [draws * (points // several + (i < points % several)) for i in range(several)]


def joined(parts: Sequence[Found]) -> Found:
    """Blocks, one after the other."""
    return Found(*[None if c[0] is None else torch.cat(c) for c in zip(*parts, strict=True)])  # type: ignore[arg-type]


def better(best: Found, found: Found, rows: Tensor) -> Found:
    """Of two searches the better point of each row, and the queries of both; the second is of some rows only."""
    won = found.value > best.value[rows]
    x_adv, value, clean, stopped = (part.clone() for part in (best.x_adv, best.value, best.clean_best, best.stopped))
    x_adv[rows[won]], value[rows[won]], clean[rows[won]] = found.x_adv[won], found.value[won], found.clean_best[won]
    stopped[rows] = found.stopped
    counts = {}
    for name in COUNTS:
        counts[name] = getattr(best, name).index_add(0, rows, getattr(found, name))
    return best._replace(x_adv=x_adv, value=value, clean_best=clean, stopped=stopped, **counts)


def fast(loss: Loss, precision: Precision = "full", search: object | None = None) -> Loss:
    """The same loss on folded copies of the networks, or in reduced precision as well.

    Args:
        loss: any.
        precision: see `Precision`.
        search: see `classifier.searching`; one for losses that belong together. None: a new one.
    """
    search = search or object()

    def folded(x: Tensor, rows: Tensor) -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(searching(search))
            if precision == "bfloat16":
                stack.enter_context(torch.autocast(x.device.type, dtype=torch.bfloat16))
            value = loss(x, rows)
            return value.to(torch.promote_types(value.dtype, x.dtype))  # reduced precision ends here

    return folded


def averaged(loss: Loss, draws: int) -> Loss:
    """Expectation over transformation: the mean of several calls, for detectors that use random numbers.

    Athalye et al., "Synthesizing Robust Adversarial Examples", arXiv:1707.07397, section 2.
    """
    if draws == 1:
        return loss
    return lambda x, rows: torch.stack([loss(x, rows) for _ in range(draws)]).mean(dim=0)


def verify(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> None:
    """Raise if any image leaves the ball or the box, by more than rounding."""
    worst = threat.distance(x_adv, x).max().item()
    if not worst <= threat.largest(x):
        raise RuntimeError(f"attack left the {threat.norm} ball: {worst:.6g} > eps {threat.eps:.6g}. This is a bug.")
    if not (x_adv.min() >= 0 and x_adv.max() <= 1):
        raise RuntimeError("attack left the [0, 1] box. This is a bug.")
