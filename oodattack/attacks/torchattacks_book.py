"""What was asked of a score while an attack of torchattacks ran, and the best answers."""

from collections.abc import Callable

import torch
from torch import Tensor

from oodattack.attack import STOPPED, Found, Seen, milestones, query, unseen
from oodattack.attacks.torchattacks_table import Foreign
from oodattack.geometry import DUAL, norm_of
from oodattack.loss import Loss
from oodattack.threat import ThreatModel

Judge = Callable[[Tensor, Tensor], Tensor]


class Book:
    """Best so far of every row, and its counters."""

    def __init__(
        self,
        loss: Loss,
        x: Tensor,
        threat: ThreatModel,
        foreign: Foreign,
        enough: Tensor | None,
        confirm: Judge | None,
        judge: Judge | None,
        progress: Callable[[int], None],
    ) -> None:
        self.loss, self.x, self.threat, self.foreign = loss, x, threat, foreign
        self.confirm, self.judge, self.progress = confirm, judge, progress
        self.draws = threat.draws or 1
        low = unseen(x)
        self.enough = -low if enough is None else enough
        self.x_adv, self.value = x.clone(), low
        self.now_x, self.now = x.clone(), low.clone()  # of the restart that runs, by the loss
        self.scale = torch.zeros_like(low)  # first-order gain at the clean input, or the first difference seen
        counters = torch.zeros(5, len(x), dtype=torch.long, device=x.device)
        self.queries, self.gradients, self.zero_gradients, self.non_finite, self.stopped = counters
        self.clean_best = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.history: list[Tensor] = []

    def ask(self, points: Tensor, rows: Tensor, *, needs_grad: bool, judge: bool = False) -> Seen:
        """One query of each point; `rows` may repeat. Counts, and makes non-finite answers harmless."""
        seen = query(self.judge if judge and self.judge else self.loss, points, rows, needs_grad=needs_grad)
        bad, grad = ~seen.value.isfinite(), seen.grad
        if grad is not None:
            bad = bad | ~grad.flatten(1).isfinite().all(1)
            grad = grad.nan_to_num(0.0, 0.0, 0.0)
            self._add(self.gradients, rows, torch.ones_like(rows))
            self._add(self.zero_gradients, rows, (grad.flatten(1) == 0).all(1))
        self._add(self.queries, rows, torch.full_like(rows, self.draws))
        self._add(self.non_finite, rows, bad)
        self.progress(len(rows) * self.draws)
        return Seen(
            seen.x_adv, seen.value.masked_fill(~seen.value.isfinite(), -float("inf")).to(self.value.dtype), grad
        )

    @staticmethod
    def _add(counter: Tensor, rows: Tensor, what: Tensor) -> None:
        counter.index_add_(0, rows, what.to(counter.dtype))

    def clean(self, *, keep_clean: bool) -> None:
        """Ask about the clean inputs: candidates or not, they set the scale."""
        low, high = (self.x.min().item(), self.x.max().item()) if len(self.x) else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise ValueError(f"`x` must be in [0, 1], got [{low:.3g}, {high:.3g}]. Move mean/std inside the detector.")
        rows = torch.arange(len(self.x), device=self.x.device)
        seen = self.ask(self.x, rows, needs_grad=self.foreign.white_box)
        merit = self.ask(self.x, rows, needs_grad=False, judge=True).value if self.judge else seen.value
        if not (merit.isfinite() & seen.value.isfinite()).all():
            bad = int((~(merit.isfinite() & seen.value.isfinite())).sum())
            raise FloatingPointError(
                f"the loss must be finite on clean inputs, got {bad} of {len(rows)} that are not. Correct the loss."
            )
        self.at_clean = seen.value
        self.measure(seen, rows)
        gain = (self.foreign.nearest or 1) * self.scale.where(self.scale > 0, 1)
        left = self.enough.to(self.value.dtype) - self.at_clean
        self.threshold = self.at_clean + left.where((left > 0) & (left < gain), gain)
        if keep_clean:
            self.value, self.clean_best = merit.clone(), torch.ones_like(self.clean_best)
        self.mark()

    def measure(self, seen: Seen, rows: Tensor) -> None:
        """Give rows that have none a scale; `rows` without repetition."""
        size = (seen.value - self.at_clean[rows]).abs().nan_to_num(0.0, 0.0, 0.0)
        if seen.grad is not None:
            slope = norm_of(seen.grad, DUAL[self.threat.norm]).to(size.dtype)
            size = torch.maximum(size, self.threat.eps * slope)
        self.scale[rows] = self.scale[rows].where(self.scale[rows] > 0, size)

    def keep(self, seen: Seen, rows: Tensor) -> None:
        """Note what is better than all before in this restart; `rows` without repetition."""
        better = seen.value > self.now[rows]
        won = rows[better]
        self.now[won], self.now_x[won] = seen.value[better], seen.x_adv[better]
        self.mark()

    def mark(self) -> None:
        """Write down the best so far where a milestone is passed."""
        due, spent = milestones(self.threat.queries), int(self.queries.max())
        while len(self.history) < len(due) and spent >= due[len(self.history)]:
            self.history.append(torch.maximum(self.value, self.now))

    def compare(self, rows: Tensor) -> None:
        """End of a restart: its best against the best of all, by the judge if there is one."""
        merit = self.ask(self.now_x[rows], rows, needs_grad=False, judge=True).value if self.judge else self.now[rows]
        better = merit > self.value[rows]
        won = rows[better]
        self.value[won], self.x_adv[won], self.clean_best[won] = merit[better], self.now_x[won], False
        self.now.fill_(-float("inf"))

    def unfinished(self) -> Tensor:
        """Rows that have not reached `enough`, or that `confirm` does not confirm."""
        done = self.value >= self.enough
        reached = done.nonzero().flatten()
        if self.confirm and len(reached):
            done[reached] = self.confirm(self.x_adv[reached], reached)
            self.queries[reached] += 1
        self.stopped[done] = STOPPED.index("target reached")
        return (~done).nonzero().flatten()

    def found(self) -> Found:
        """The result, exactly inside the threat model."""
        self.progress(len(self.x) * self.threat.queries - int(self.queries.sum()))  # saved
        left = len(milestones(self.threat.queries)) - len(self.history)
        on_the_way = self.foreign.copies != "single" and not self.foreign.ahead
        known = self.judge is None and on_the_way and self.threat.iterate == "best"
        history = torch.stack([*self.history, *[self.value] * left], dim=1) if known else None
        return Found(
            self.threat.settle(self.x_adv, self.x),
            self.value,
            self.queries,
            self.gradients,
            self.zero_gradients,
            self.non_finite,
            self.clean_best,
            self.stopped,
            history,
        )
