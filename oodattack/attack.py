"""The one attack loop. It owns budget, feasibility, restarts, active rows, best-so-far and accounting; a step owns the
mathematics."""  # noqa: D205, D209

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

CHECK = 5  # queries between two confirmations that rows are finished
Loss = Callable[[Tensor, Tensor], Tensor]  # inputs (B, ...) and their row numbers (B,) -> values (B,) to maximise


class Seen(NamedTuple):
    """What one query told the attacker."""

    x_adv: Tensor  # (B, ...)
    value: Tensor  # (B,)
    grad: Tensor | None  # (B, ...), None for a black-box step


class Attack(NamedTuple):
    """A pair of pure functions, like an optimiser.

    start(x, threat, random, steps) -> (x_adv, state): the first point and what the step remembers; `steps` is the
    number of queries this restart may spend. step(seen, x, threat, random, state) -> (x_adv, state): the next point.
    Points may leave the threat model: the loop projects them. A state is a NamedTuple whose tensors have one entry a
    row; anything else in it is shared by all rows.
    """

    start: Callable[[Tensor, ThreatModel, RowRandom, int], tuple[Tensor, Any]]
    step: Callable[[Seen, Tensor, ThreatModel, RowRandom, Any], tuple[Tensor, Any]]
    white_box: bool = True


class Found(NamedTuple):
    """What the search returned, and how it went. One entry a row."""

    x_adv: Tensor  # (B, ...), inside the threat model
    value: Tensor  # (B,), the loss there
    queries: Tensor  # (B,), detector calls spent
    gradients: Tensor  # (B,), those of them that took a gradient
    zero_gradients: Tensor  # (B,), those of these whose gradient was exactly zero
    non_finite: Tensor  # (B,), queries whose value or gradient was not finite
    clean_best: Tensor  # (B,), True where nothing beat the clean input


def maximise(
    loss: Loss,
    x: Tensor,
    threat: ThreatModel,
    attack: Attack,
    random: RowRandom,
    *,
    keep_clean: bool,
    enough: Tensor | None = None,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Search for the allowed inputs with the largest loss.

    Args:
        loss: per-row objective. Rows must not influence one another.
        x: clean inputs, shape (B, ...), values in [0, 1].
        threat: limits; each row spends at most `threat.queries` queries.
        attack: the step to repeat.
        random: one stream of random numbers a row.
        keep_clean: the clean input is a candidate, and costs the first query.
        enough: shape (B,); a row whose best value has reached it is finished and leaves the batch. None: never.
        confirm: (inputs, row numbers) -> (B,), asked every few queries about rows that have reached `enough`: only
            those it confirms are finished. None: all of them are.
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
    rows = torch.arange(len(x), device=x.device)
    search = _Search(loss, x, threat, attack, enough, confirm, progress or (lambda _: None))
    if keep_clean:
        search.note(query(loss, x, rows, needs_grad=False), rows)
        if not search.value.isfinite().all():
            bad = int((~search.value.isfinite()).sum())
            raise FloatingPointError(f"the loss must be finite on clean inputs, got {bad} of {len(x)} that are not.")
        search.clean_best.fill_(True)
    left = threat.queries - int(keep_clean)
    for restart in range(threat.restarts):
        steps = left // (threat.restarts - restart)
        left -= steps
        search.restart(random, steps, first=restart == 0)
    return Found(
        threat.settle(search.x_adv, x),
        search.value,
        search.queries,
        search.gradients,
        search.zero_gradients,
        search.non_finite,
        search.clean_best,
    )


class _Search:
    """Book-keeping of one call of `maximise`: the best so far of every row, and its counters."""

    def __init__(
        self,
        loss: Loss,
        x: Tensor,
        threat: ThreatModel,
        attack: Attack,
        enough: Tensor | None,
        confirm: Callable[[Tensor, Tensor], Tensor] | None,
        progress: Callable[[int], None],
    ) -> None:
        self.loss, self.x, self.threat, self.attack, self.progress = loss, x, threat, attack, progress
        self.confirm = confirm
        self.done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.enough = x.new_full((len(x),), float("inf")) if enough is None else enough
        self.x_adv = x.clone()
        self.value = x.new_full((len(x),), -float("inf"))
        counters = torch.zeros(4, len(x), dtype=torch.long, device=x.device)
        self.queries, self.gradients, self.zero_gradients, self.non_finite = counters
        self.clean_best = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def note(self, seen: Seen, rows: Tensor, *, replace: bool = False) -> None:
        """Keep each row's better point (or, with `replace`, the newer one)."""
        self.queries[rows] += 1
        better = torch.ones_like(seen.value, dtype=torch.bool) if replace else seen.value > self.value[rows]
        won = rows[better]
        self.value[won] = seen.value[better].to(self.value.dtype)
        self.x_adv[won] = seen.x_adv[better]
        self.clean_best[won] = False
        self.progress(len(rows))

    def restart(self, random: RowRandom, steps: int, *, first: bool) -> None:
        """One run of the attack's steps on all unfinished rows."""
        self._finish(torch.arange(len(self.x), device=self.x.device), check=True)
        rows = (~self.done).nonzero().flatten()
        self.progress((len(self.x) - len(rows)) * steps)
        if not len(rows) or not steps:
            return
        random, x = random.take(rows), self.x[rows]
        x_adv, state = self.attack.start(x, self.threat, random, steps)
        for i in range(steps):
            last = i + 1 == steps  # nobody steps on from there: no gradient
            point = self.threat.project(x_adv, x)
            seen = self._count(query(self.loss, point, rows, needs_grad=self.attack.white_box and not last), rows)
            if self.threat.iterate == "best" or last:
                self.note(seen, rows, replace=first and self.threat.iterate == "last")
            else:
                self.queries[rows] += 1
                self.progress(len(rows))
            if last:
                return
            self._finish(rows, check=i % CHECK == 0)
            if self.done[rows].any():
                kept = (~self.done[rows]).nonzero().flatten()
                self.progress((len(rows) - len(kept)) * (steps - i - 1))
                if not len(kept):
                    return
                rows, x, random = rows[kept], x[kept], random.take(kept)
                seen, state = _take(seen, kept), _take(state, kept)
            x_adv, state = self.attack.step(seen, x, self.threat, random, state)

    def _finish(self, rows: Tensor, *, check: bool) -> None:
        """Mark the rows that have reached `enough`; where that must be confirmed, only when it is time to `check`."""
        reached = rows[(self.value[rows] >= self.enough[rows]) & ~self.done[rows]]
        if len(reached) and self.confirm is None:
            self.done[reached] = True
        elif len(reached) and self.confirm and check:
            self.done[reached] = self.confirm(self.x_adv[reached], reached)

    def _count(self, seen: Seen, rows: Tensor) -> Seen:
        """Count zero gradients and non-finite numbers; make the latter harmless without hiding them."""
        bad = ~seen.value.isfinite()
        value = seen.value.masked_fill(bad, -float("inf"))
        grad = seen.grad
        if grad is not None:
            largest = torch.linalg.vector_norm(grad.flatten(1), float("inf"), dim=1)  # NaN if any entry is
            if not largest.isfinite().all():
                bad = bad | ~largest.isfinite()
                grad = grad.nan_to_num(0.0, 0.0, 0.0)
                largest = torch.linalg.vector_norm(grad.flatten(1), float("inf"), dim=1)
            self.gradients[rows] += 1
            self.zero_gradients[rows] += (largest == 0).long()
        self.non_finite[rows] += bad.long()
        return Seen(seen.x_adv, value, grad)


def query(loss: Loss, x: Tensor, rows: Tensor, *, needs_grad: bool) -> Seen:
    """Call the loss once. Shapes as in `Seen`."""
    x = x.detach().requires_grad_(needs_grad)
    grad = None
    with torch.set_grad_enabled(needs_grad):
        value = loss(x, rows)
        if value.shape != x.shape[:1]:
            raise ValueError(f"the score must be one number a row, shape ({len(x)},), got {tuple(value.shape)}.")
        if needs_grad:
            if not value.requires_grad:
                raise ValueError("a white-box attack must have a gradient of the score, got none. Use random-search.")
            (grad,) = torch.autograd.grad(value.sum(), x)
    return Seen(x.detach(), value.detach(), grad)


def _take(state: Any, rows: Tensor) -> Any:
    """The given rows of every tensor in a NamedTuple."""
    if state is None:
        return None
    return type(state)(*[part[rows] if isinstance(part, Tensor) else part for part in state])
