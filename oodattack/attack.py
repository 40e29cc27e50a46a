"""The one attack loop. It owns budget, feasibility, restarts, active rows, best-so-far and accounting; a step owns the
mathematics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack.faults import fault, out_of_memory
from oodattack.geometry import RowRandom, wide, widest
from oodattack.loss import AnyLoss, Judged, Loss
from oodattack.threat import ThreatModel

CHECK = 5  # queries after which `confirm` is asked again whether rows are finished, and `judge` what points are worth
MILESTONES = tuple(k * 10**n for n in range(6) for k in (1, 2, 5))  # queries at which the best so far is written down
STOPPED = ("queries spent", "target reached", "ball binds", "stationary", "step too small")  # why a row left
COUNTS = ("queries", "gradients", "zero_gradients", "non_finite")  # what is counted, fields of `Found`


class Seen(NamedTuple):
    """What one query told the attacker."""

    x_adv: Tensor  # (B, ...)
    value: Tensor  # (B,)
    grad: Tensor | None  # (B, ...), None for a black-box step
    worth: Tensor | None = None  # (B,), see `Judged`; None where it is the value


class Attack(NamedTuple):
    """A pair of pure functions, like an optimiser.

    start(x, threat, random, steps) -> (x_adv, state): the first point and what the step remembers; `steps` is the
    number of points this restart may send. step(seen, x, threat, random, state) -> (x_adv, state): the next point.
    Points may leave the threat model: the loop projects them. A state is a NamedTuple whose tensors have one entry a
    row; anything else in it is shared by all rows. Where a state's `stopped` (B,) is not 0 the row is finished once the
    point beside it was seen, and the number says why, see `STOPPED`.
    """

    start: Callable[[Tensor, ThreatModel, RowRandom, int], tuple[Tensor, Any]]
    step: Callable[[Seen, Tensor, ThreatModel, RowRandom, Any], tuple[Tensor, Any]]
    white_box: bool = True


class Whole(NamedTuple):
    """A search with a loop of its own, such as another library's. `search` is `maximise` without `attack`."""

    search: Callable[..., "Found"]
    white_box: bool = True


class Found(NamedTuple):
    """What the search returned, and how it went. One entry a row."""

    x_adv: Tensor  # (B, ...), inside the threat model
    value: Tensor  # (B,), the loss there
    queries: Tensor  # (B,), detector calls spent
    gradients: Tensor  # (B,), those of them that gave a step its gradient
    zero_gradients: Tensor  # (B,), those of these whose gradient was exactly zero
    non_finite: Tensor  # (B,), queries whose value or gradient was not finite
    clean_best: Tensor  # (B,), True where nothing beat the clean input
    stopped: Tensor  # (B,), why the row left, an index of `STOPPED`
    history: Tensor | None = None  # (B, milestones up to the last query), best loss so far
    restarts: Tensor | None = None  # (B, restarts), best loss of each


def maximise(
    loss: AnyLoss,
    x: Tensor,
    threat: ThreatModel,
    attack: Attack,
    random: RowRandom,
    *,
    keep_clean: bool,
    enough: Tensor | None = None,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
    judge: Callable[[Tensor, Tensor], Tensor] | None = None,
    crossing: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Search for the allowed inputs with the largest loss.

    Args:
        loss: per-row objective. Rows must not influence one another. Where it is `Judged`, the best is kept by its
            worth, and compared with `enough`.
        x: clean inputs, shape (B, ...), values in [0, 1].
        threat: limits; each row spends at most `threat.queries` queries.
        attack: the step to repeat.
        random: one stream of random numbers a row.
        keep_clean: the clean input is a candidate, and costs the first query.
        enough: shape (B,); a row whose best value has reached it is finished and leaves the batch. None: never.
        confirm: (inputs, row numbers) -> (B,), asked every few queries about rows that have reached `enough`: only
            those it confirms are finished. None: all of them are. Costs a query.
        judge: (inputs, row numbers) -> (B,), values to keep the best by and to compare with `enough`, where the loss
            is another function and does not know them. Asked now and then, see `judgements`, and of the last point;
            costs a query each time.
        crossing: the loss is >= 0 beyond a threshold, and the best point is the nearest one there.
        progress: told the number of row-queries just spent or saved.

    Returns:
        The best (or, with `threat.iterate = "last"`, the last) inputs seen, never outside `threat`.

    Raises:
        ValueError: `x` leaves [0, 1], or the loss is not one number a row, or a white-box loss has no gradient.
        FloatingPointError: the loss of a clean input is not finite.
    """
    low, high = (x.min().item(), x.max().item()) if len(x) else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"`x` must be in [0, 1], got [{low:.3g}, {high:.3g}]. Move mean/std inside the detector.")
    enough = x.new_full((len(x),), float("inf")) if enough is None else enough
    search = _Search(loss, x, threat, attack, enough, confirm, judge, crossing, progress or (lambda _: None))
    if keep_clean:
        search.clean()
    left = threat.queries // search.draws - int(keep_clean)
    for restart in range(threat.restarts):
        steps = left // (threat.restarts - restart)
        left -= steps
        search.restart(random, steps)
    return search.found()


@dataclass
class _Search:
    """Book-keeping of one call of `maximise`: the best so far of every row, and its counters.

    Methods get the numbers of the rows that are still in the batch as `rows`; tensors of the search have all rows.
    """

    loss: AnyLoss
    x: Tensor
    threat: ThreatModel
    attack: Attack
    enough: Tensor
    confirm: Callable[[Tensor, Tensor], Tensor] | None
    judge: Loss | None
    crossing: bool
    progress: Callable[[int], None]

    def __post_init__(self) -> None:
        x = self.x
        self.everybody = torch.arange(len(x), device=x.device)
        self.draws = self.threat.draws or 1
        self.x_adv = x.clone()  # the best point so far,
        self.value = unseen(x)  # its value,
        self.merit = self.value.clone()  # and what it is the best by: the value, or see `_merit`
        self.best_of_restart = self.value.clone()  # largest merit in the restart that runs
        self.replaces = False  # a new point counts as better, whatever its merit: the last one is asked for
        self.done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.unconfirmed = torch.zeros_like(self.done)  # `confirm` has said no to the best so far
        self.clean_best = torch.zeros_like(self.done)
        counters = torch.zeros(5, len(x), dtype=torch.long, device=x.device)
        self.queries, self.gradients, self.zero_gradients, self.non_finite, self.stopped = counters
        self.points = 0  # that a row which never left has been sent so far
        self.history: list[Tensor] = []
        self.restarts: list[Tensor] = []

    def clean(self) -> None:
        """The clean inputs as candidates."""
        seen = query(self.judge or self.loss, self.x, self.everybody, needs_grad=False)
        self.book(seen, self.everybody)
        if not self.value.isfinite().all():
            bad = int((~self.value.isfinite()).sum())
            raise FloatingPointError(
                f"the loss must be finite on clean inputs, got {bad} of {len(self.x)} that are not. Correct the loss."
            )
        self.clean_best.fill_(True)

    def book(self, seen: Seen, rows: Tensor) -> None:
        """Keep the better points of a query, and pay for it."""
        self._keep(seen, rows)
        self._pay(rows)

    def _keep(self, seen: Seen, rows: Tensor) -> None:
        """Keep each row's better point, the old or the new; where a new one `replaces` whatever was there, that."""
        value = (seen.value if seen.worth is None else seen.worth).to(self.value.dtype)
        merit = self._merit(seen.x_adv, value, rows) if self.crossing else value
        better = torch.ones_like(merit, dtype=torch.bool) if self.replaces else merit > self.merit[rows]
        for best, new in ((self.value, value), (self.merit, merit), (self.x_adv, seen.x_adv)):
            best[rows] = new.where(wide(better, new), best[rows])
        self.clean_best[rows] &= ~better
        self.unconfirmed[rows] &= ~better
        self.best_of_restart[rows] = torch.maximum(self.best_of_restart[rows], merit)

    def _merit(self, x_adv: Tensor, value: Tensor, rows: Tensor) -> Tensor:
        """Larger is better: the nearest point beyond the threshold, or else the one that came closest to it."""
        beyond = value >= 0
        near = torch.finfo(value.dtype).max / (1 + self.threat.distance(x_adv, self.x[rows]).to(value.dtype))
        return near.where(beyond, value)

    def _pay(self, rows: Tensor) -> None:
        """Count one query of each of these rows; write down the best so far where a milestone is passed."""
        self.queries[rows] += self.draws
        self.progress(len(rows) * self.draws)
        self.points += 1
        due = milestones(self.threat.queries)
        while len(self.history) < len(due) and self.points * self.draws >= due[len(self.history)]:
            self.history.append(self.value.clone())

    def restart(self, random: RowRandom, steps: int) -> None:
        """One run of the attack's steps on all unfinished rows."""
        self.replaces = self.threat.iterate == "last" and not self.restarts  # a later restart must be better
        self.best_of_restart.fill_(-float("inf"))
        self._finish(self.everybody, check=True)
        rows = (~self.done & ~self._spent(self.queries)).nonzero().flatten()
        self.progress((len(self.x) - len(rows)) * steps * self.draws)
        if len(rows) and steps:
            self._run(random.take(rows), rows, steps)
        self.restarts.append(self.best_of_restart.where(self.best_of_restart.isfinite(), self.merit))

    def _run(self, random: RowRandom, rows: Tensor, steps: int) -> None:
        """The attack's steps on some rows, which leave the batch one by one as they are finished."""
        x = self.x[rows]
        judge = self.judge if self.threat.iterate == "best" else None
        judged = set(judgements(steps)) if judge else set()
        x_adv, state = self.attack.start(x, self.threat, random, steps - len(judged))
        seen = self._send(self.threat.project(x_adv, x), rows, last=steps == 1)
        for i in range(1, steps):
            if judge and i in judged:  # about the point that was just sent
                self.book(self._ask(judge, seen.x_adv, rows), rows)
                continue
            self._finish(rows, check=i % CHECK == 1)
            stopped = getattr(state, "stopped", None)
            if stopped is not None and stopped.any():
                self._keep_last(seen, rows, stopped > 0)
            staying = self._staying(rows, stopped, steps - i)
            if staying is not None:
                if not len(staying):
                    return
                rows, x, random = rows[staying], x[staying], random.take(staying)
                seen, state = _take(seen, staying), _take(state, staying)
            x_adv, state = self.attack.step(seen, x, self.threat, random, state)
            seen = self._send(self.threat.project(x_adv, x), rows, last=i + 1 == steps)

    def _send(self, point: Tensor, rows: Tensor, *, last: bool) -> Seen:
        """A step's query. Nobody steps on from the last point: it needs no gradient, and goes to the judge."""
        ask = self.judge if last and self.judge else self.loss
        seen = self._ask(ask, point, rows, needs_grad=self.attack.white_box and not last)
        if last or (self.threat.iterate == "best" and self.judge is None):
            self.book(seen, rows)
        else:
            self._pay(rows)
        return seen

    def _keep_last(self, seen: Seen, rows: Tensor, stopped: Tensor) -> None:
        """Keep the last point of the rows that their step has ended, where only last points are kept or judged."""
        if self.judge is None and self.threat.iterate == "best":
            return  # kept already, as every point
        leaving = stopped & ~self.done[rows]
        if self.judge is not None:
            leaving &= ~self._spent(self.queries[rows])
        if not leaving.any():
            return
        seen, rows = _take(seen, leaving), rows[leaving]
        if self.judge is not None:
            seen = self._ask(self.judge, seen.x_adv, rows)
            self.queries[rows] += self.draws
        self._keep(seen, rows)

    def _staying(self, rows: Tensor, stopped: Tensor | None, left: int) -> Tensor | None:
        """Which of the rows go on, as indices; None where all do. The others save `left` points each."""
        spent = self._spent(self.queries[rows])  # confirmations are paid for too
        out = self.done[rows] | spent
        if stopped is not None:
            self.stopped[rows] = stopped.where(~out, self.stopped[rows])
            out = out | (stopped > 0)
        if not out.any():
            return None
        staying = (~out).nonzero().flatten()
        self.progress((len(rows) - len(staying)) * left * self.draws)
        return staying

    def _spent(self, queries: Tensor) -> Tensor:
        """Whether another query would go beyond the budget."""
        spent: Tensor = queries + self.draws > self.threat.queries
        return spent

    def _finish(self, rows: Tensor, *, check: bool) -> None:
        """Mark the rows that have reached `enough`; where that must be confirmed, only when it is time to `check`."""
        reached = (self.value[rows] >= self.enough[rows]) & ~self.done[rows]
        if self.confirm is not None:
            reached = self._confirmed(rows, reached, self.confirm) if check else torch.zeros_like(reached)
        self.done[rows] |= reached
        self.stopped[rows] = self.stopped[rows].masked_fill(reached, STOPPED.index("target reached"))

    def _confirmed(self, rows: Tensor, reached: Tensor, confirm: Loss) -> Tensor:
        """Which of the rows that have reached `enough` are finished; others are asked about again once they improve."""
        ask = reached & ~self.unconfirmed[rows] & (self.queries[rows] < self.threat.queries)
        asked, yes = rows[ask], torch.zeros_like(reached)
        if len(asked):
            yes[ask] = confirm(self.x_adv[asked], asked)
            self.unconfirmed[asked] = ~yes[ask]
            self.queries[asked] += 1
        return yes

    def _ask(self, loss: AnyLoss, point: Tensor, rows: Tensor, *, needs_grad: bool = False) -> Seen:
        """One query. Zero gradients and non-finite numbers are counted; the latter are made harmless, not hidden.

        Nothing here waits for the GPU: it goes on with the backward pass while these lines are sent to it.
        """
        seen = query(loss, point, rows, needs_grad=needs_grad)
        worth, bad = seen.worth, ~seen.value.isfinite()
        value = seen.value.masked_fill(bad, -float("inf"))
        if worth is not None:
            worth_bad = ~worth.isfinite()
            worth, bad = worth.masked_fill(worth_bad, -float("inf")), bad | worth_bad
        grad = seen.grad
        if grad is not None:
            bad = bad | ~_largest(grad).isfinite()
            grad = grad.nan_to_num(0.0, 0.0, 0.0)
            self.gradients[rows] += 1
            self.zero_gradients[rows] += (_largest(grad) == 0).long()
        self.non_finite[rows] += bad.long()
        return Seen(seen.x_adv, value, grad, worth)

    def found(self) -> Found:
        """The result, exactly inside the threat model."""
        while len(self.history) < len(milestones(self.threat.queries)):  # all rows left before
            self.history.append(self.value)
        return Found(
            x_adv=self.threat.settle(self.x_adv, self.x),
            value=self.value,
            queries=self.queries,
            gradients=self.gradients,
            zero_gradients=self.zero_gradients,
            non_finite=self.non_finite,
            clean_best=self.clean_best,
            stopped=self.stopped,
            history=torch.stack(self.history, dim=1) if self.threat.iterate == "best" else None,
            restarts=torch.stack(self.restarts, dim=1),
        )


def unseen(x: Tensor) -> Tensor:
    """The best value of each row of x before any is known, shape (B,): -inf.

    In the widest type that a score can have: two scores that differ in float64 alone, such as probabilities next to 1,
    must not look the same to a search.
    """
    return widest(x.new_full((len(x),), -float("inf")))


def judgements(steps: int) -> tuple[int, ...]:
    """Which of so many queries, counted from 0, ask the judge about the point before; the last does in any case.

    Every fifth at first. From 20 on each is a quarter further than the one before: a long search does not spend a fifth
    of its queries on the judge.
    """
    at, found = CHECK, []
    while at < steps - 1:
        found.append(at)
        at += max(CHECK, at // 4)
    return tuple(found)


def milestones(queries: int) -> tuple[int, ...]:
    """Queries at which the best so far is written down: 1, 2, 5, 10, 20, ..., half of all and all."""
    return tuple(sorted({*(m for m in MILESTONES if m < queries), queries // 2 or 1, queries}))


def query(loss: AnyLoss, x: Tensor, rows: Tensor, *, needs_grad: bool) -> Seen:
    """Call the loss once. Shapes as in `Seen`."""
    x = x.detach().requires_grad_(needs_grad)
    grad = None
    with torch.set_grad_enabled(needs_grad):
        told = loss(x, rows)
        value, worth = told if isinstance(told, Judged) else (told, None)
        if value.shape != x.shape[:1]:
            found = tuple(value.shape)
            raise ValueError(f"the score must be one number a row, shape ({len(x)},), got {found}. Reduce each row.")
        if needs_grad:
            if not value.requires_grad:
                raise ValueError("a white-box attack must have a gradient of the score, got none. Use random-search.")
            grad = _gradient(value, x)
    return Seen(x.detach(), value.detach(), grad, None if worth is None else worth.detach())


def _gradient(value: Tensor, x: Tensor) -> Tensor:
    """Of the sum of values; a ValueError in one line where a user's own backward fails."""
    try:
        (grad,) = torch.autograd.grad(value.sum(), x)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ValueError(
            f"the gradient of a score must be computable, got {fault(error)}. Correct the score."
        ) from error
    return grad


def _largest(grad: Tensor) -> Tensor:
    """Largest magnitude of each row, shape (B,); NaN where any entry is."""
    return grad.flatten(1).abs().amax(dim=1)


def _take(state: Any, rows: Tensor) -> Any:
    """The given rows of every tensor in a NamedTuple."""
    if state is None:
        return None
    return type(state)(*[part[rows] if isinstance(part, Tensor) else part for part in state])
