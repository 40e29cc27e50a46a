"""One search: what it follows, its threat model, its images. What it returns is known to obey the threat model."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.attack import Found
from oodattack.data.disk import forget_pages, placed
from oodattack.evaluation.batch import answered, in_blocks
from oodattack.evaluation.block_key import block_key, block_seed
from oodattack.evaluation.goal import Goal, objective
from oodattack.evaluation.outcome import ID
from oodattack.evaluation.part import Part
from oodattack.evaluation.plan import Group, Guide
from oodattack.evaluation.setup import Setup
from oodattack.geometry import row_random
from oodattack.threat import ThreatModel


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
    found_blocks = setup.keeper.blocks(len(blocks.rows), blocks.name, blocks.compute)
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
            "side": "id" if goal.sign == ID else "ood",
            "precision": self.setup.precision,
            "threat": self.group.threat.model_dump_json(),
            "follows": self.group.guide.surrogate,
            "rows": list(self.attacked.numbers[rows]),
        }
        targets = None if goal.targets is None else goal.targets[rows]
        return block_key(words, (self.attacked.x[rows], goal.beaten, targets))

    def compute(self, i: int) -> Found:
        """What comes out of block i, in parts that fit into memory."""
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
        guide = _answering(self.group.guide)
        if setup.precision != "full":  # in which the score is asked, whatever the search computes in
            guide = guide._replace(one_pass=None)
        try:
            asked = objective(guide, threat, self.goal, x, rows)
            return Part(asked, threat, self.goal, x, random, setup.precision, self._tell).search()
        except FloatingPointError as error:
            found, _, _ = str(error).partition(". ")
            raise FloatingPointError(
                f"{self.who}, {threat.name} on {self.attacked.name}: {found}. Correct {followed(guide, threat)} that "
                "the search follows, or leave the threat out."
            ) from None


def _answering(guide: Guide) -> Guide:
    """The same, but for a ValueError in one line where a user's code fails."""
    judge, one_pass = guide.judge, guide.one_pass
    return guide._replace(
        f=partial(answered, guide.f),
        judge=None if judge is None else partial(answered, judge),
        one_pass=None if one_pass is None else one_pass._replace(logits=partial(answered, one_pass.logits)),
    )


def followed(guide: Guide, threat: ThreatModel) -> str:
    """What a search follows, in words; a judge is asked about the clean images in its place."""
    if guide.surrogate is not None:
        return f"the surrogate {guide.surrogate!r}"
    what = threat.match or ("logits" if threat.objective == "misclassify" else threat.objective)
    return f"the {what or 'score'}" if guide.judge is None else f"the {what} or the score"


def joined(parts: Sequence[Found]) -> Found:
    """Blocks, one after the other."""
    return Found(*[None if c[0] is None else torch.cat(c) for c in zip(*parts, strict=True)])  # type: ignore[arg-type]


def verify(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> None:
    """Raise if any image leaves the ball or the box, by more than rounding."""
    worst = threat.distance(x_adv, x).max().item()
    if not worst <= threat.largest(x):
        raise RuntimeError(f"attack left the {threat.norm} ball: {worst:.6g} > eps {threat.eps:.6g}. This is a bug.")
    if not (x_adv.min() >= 0 and x_adv.max() <= 1):
        raise RuntimeError("attack left the [0, 1] box. This is a bug.")
