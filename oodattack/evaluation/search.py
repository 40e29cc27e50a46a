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
    quarry, threat, who = group.quarry, group.threat, ", ".join(group.names)
    x, numbers, batch = attacked.x, attacked.numbers, setup.batch
    key = f"{attacked.name}/{threat.name}" + (f"/{attacked.round}" if attacked.round else "")
    x_adv = setup.keeper.room(x)  # filled block by block: two copies of all images would be one too many
    blocks = [slice(first, min(first + batch.block, len(x))) for first in range(0, len(x), batch.block)]
    told = 0

    def tell(queries: int) -> None:
        nonlocal told
        told += queries
        setup.advance(queries)

    def name(i: int) -> str:
        own: dict[str, object] = {
            "seed": setup.seed,
            "key": key,
            "who": who,
            "side": goal.side,
            "precision": setup.precision,
            "threat": threat.model_dump_json(),
            "follows": quarry.surrogate,
            "rows": list(numbers[blocks[i]]),
        }
        targets = None if goal.targets is None else goal.targets[blocks[i]]
        return block_key(own, (x[blocks[i]], goal.beaten, targets))

    def work(i: int) -> Found:
        def part(within: slice) -> Found:
            rows = slice(blocks[i].start + within.start, blocks[i].start + within.stop)
            random = row_random(setup.seed, key, numbers[rows], x.device, x.dtype)
            try:
                return _block(quarry, threat, x[rows], goal, rows, random, setup.precision, tell)
            except FloatingPointError as error:
                found, _, _ = str(error).partition(". ")
                raise FloatingPointError(
                    f"{who}, {threat.name} on {attacked.name}: {found}. Correct {followed(quarry, threat)} that the "
                    "search follows, or leave the threat out."
                ) from None

        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(block_seed(setup.seed, key, int(numbers[blocks[i].start])))
            return joined(in_blocks(blocks[i].stop - blocks[i].start, batch, part))

    whole: dict[str, Tensor | None] = {}
    for rows, found in zip(blocks, setup.keeper.blocks(len(blocks), name, work), strict=True):
        block = Found(*[None if t is None else t.to(x.device) for t in found])  # type: ignore[arg-type]
        verify(block.x_adv, x[rows], threat)
        x_adv[rows] = block.x_adv
        beside = {field: t for field, t in block._asdict().items() if field != "x_adv"}
        whole |= {f: None if t is None else placed(t, rows, len(x), whole.get(f)) for f, t in beside.items()}
        setup.advance(max((rows.stop - rows.start) * threat.queries - told, 0))  # computed before, or elsewhere
        told = 0
        forget_pages()
    return Found(**whole | {"x_adv": x_adv})  # type: ignore[arg-type]


def followed(quarry: Quarry, threat: ThreatModel) -> str:
    """What a search follows, in words; a judge is asked about the clean images in its place."""
    if quarry.surrogate is not None:
        return f"the surrogate {quarry.surrogate!r}"
    what = threat.match or ("logits" if threat.objective == "misclassify" else threat.objective)
    return f"the {what or 'score'}" if quarry.judge is None else f"the {what} or the score"


def _block(
    quarry: Quarry,
    threat: ThreatModel,
    x: Tensor,
    goal: Goal,
    rows: slice,
    random: RowRandom,
    precision: Precision,
    progress: Callable[[int], None],
) -> Found:
    """One block: a call of `maximise` for each loss, on the rows that are not finished yet."""
    judge = None if quarry.judge is None else partial(answered, quarry.judge)
    quarry = quarry._replace(f=partial(answered, quarry.f), judge=judge)
    asked, everybody = objective(quarry, threat, goal, x, rows), torch.arange(len(x), device=x.device)
    if len(asked.losses) == 1:
        return _once(asked, 0, threat, x, goal, everybody, random, precision, progress)
    asked, left, spent = _raced(asked, threat, x, random, precision, progress)
    best: Found | None = None
    for i, queries in enumerate(shares(left, len(asked.losses))):
        share, still = threat.model_copy(update={"queries": queries, "restarts": 1}), everybody
        if best is not None and asked.enough is not None:
            still = (best.value < asked.enough).nonzero().flatten()
            progress((len(x) - len(still)) * share.queries)
        if len(still):
            found = _once(asked, i, share, x[still], goal, still, random.take(still), precision, progress)
            best = found if best is None else better(best, found, still)
    assert best is not None
    best = best._replace(**{name: getattr(best, name) + count for name, count in spent.items()})
    return best._replace(history=None, restarts=None)  # which are of one loss, and not of every row


def _raced(
    asked: Objective,
    threat: ThreatModel,
    x: Tensor,
    random: RowRandom,
    precision: Precision,
    progress: Callable[[int], None],
) -> tuple[Objective, ThreatModel, dict[str, Tensor]]:
    """What the rows of a block follow, each its own losses where that is asked; what is left, and the counts so far."""
    if asked.own is None:
        return asked, threat, {}
    racing, points = points_of_each(threat, len(asked.losses))
    if not racing:
        return asked._replace(losses=asked.losses[: threat.restarts]), threat, {}
    draws, search = threat.draws or 1, object()
    losses = [fast(averaged(loss, draws), precision, search) for loss in asked.losses[:racing]]
    places, counts = race(losses, points, x, threat, random, progress)
    left = threat.model_copy(update={"queries": threat.queries - racing * points * draws})
    return asked._replace(losses=[asked.own(which) for which in places]), left, counts


def shares(threat: ThreatModel, losses: int) -> list[int]:
    """Queries of each loss, in whole draws; of as many losses as can have `ENOUGH_POINTS` each, at least of one."""
    draws = threat.draws or 1
    points = threat.queries // draws
    several = max(1, min(losses, points // ENOUGH_POINTS))
    return [draws * (points // several + (i < points % several)) for i in range(several)]


def _once(
    asked: Objective,
    which: int,
    threat: ThreatModel,
    x: Tensor,
    goal: Goal,
    still: Tensor,
    random: RowRandom,
    precision: Precision,
    progress: Callable[[int], None],
) -> Found:
    """One loss on some rows of a block; the loss knows rows by their place in the block."""
    loss, judge = asked.losses[which], asked.judge
    attack = hop_skip_jump(images=goal.beyond) if threat.attack == "hop-skip-jump" else find_attack(threat)
    options = {
        "keep_clean": threat.by_score,
        "enough": asked.enough[still] if asked.enough is not None and threat.iterate == "best" else None,
        "confirm": goal.confirm,
        "judge": None if judge is None else averaged(lambda z, rows: judge(z, still[rows]), threat.draws or 1),
        "crossing": asked.crossing,
        "progress": progress,
    }
    fast_loss = fast(averaged(lambda z, rows: loss(z, still[rows]), threat.draws or 1), precision)
    if isinstance(attack, Whole):
        return attack.search(fast_loss, x, threat, random, **options)
    return maximise(fast_loss, x, threat, attack, random, **options)  # type: ignore[arg-type]


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
