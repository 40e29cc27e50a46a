"""Attacks of torchattacks by name: Kim, "Torchattacks: A PyTorch Repository for Adversarial Attacks", arXiv:2010.01950.

The library attacks classifiers, this package a loss L. So the library is shown four logits of which the second rises
with L, and is told that the first is the true class. Most attacks see a value that never crosses the first logit, so
that no success ends them early, and in backward the gradient of L itself. Attacks that look for the nearest crossing
see a linear margin to a threshold instead. Both are measured in units of what the ball can gain to first order at the
clean input, so that L and 200 L look the same.

Budget, feasibility, best-so-far and the returned value stay ours. Two promises of the package's own attacks cannot be
kept: random numbers (and here and there a stopping rule) are shared by a batch, and a finished row does not leave it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack.attack import STOPPED, Found, Loss, Seen, Whole, query
from oodattack.attacks.starts import wide
from oodattack.geometry import RowRandom, norm_of
from oodattack.lookup import unknown
from oodattack.threat import ThreatModel

ROUNDING = 1e-6  # a pixel may be this far outside the limits, and is then put inside before it is asked about
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
Judge = Callable[[Tensor, Tensor], Tensor]


BATCH = "its random numbers depend on the batch size"
NEAREST = "stops at the threshold: looks for the nearest input that gains what eps promises to first order"
ONE_STEP = "one step, whatever the budget"
NOISY = f"attacks the score under heavy noise; {BATCH}"
SMOOTHED = dict(noise_batch_size=5, batch_max=10**9)  # one batch, whatever its size: rows keep their places
ELASTIC = dict(binary_search_steps=3, abort_early=False)


class Foreign(NamedTuple):
    """How to call one attack of the library, and what it asks of the detector.

    Attributes:
        norms: balls that it respects.
        share: default step size as a share of eps, after the library's own defaults; None: it has none to set.
        per_step: queries a step; 0 for attacks of a single step.
        once: queries beside the steps.
        copies: order of a batch that holds each row k times: "tile" 0 1 0 1, "interleave" 0 0 1 1; "single": it loops
            over rows, and gets them one at a time.
        fixed: constructor arguments that differ from the library's defaults.
        channels: number that it insists on; 0: any.
        side: least height and width of an image.
        nearest: it looks for the nearest crossing of a threshold, which is put at this share of the first-order gain;
            None: it follows the loss.
        white_box: takes gradients.
        remark: what a reader of its numbers must know.
    """

    norms: tuple[str, ...] = ("linf",)
    share: float | None = 0.25
    per_step: int = 1
    once: int = 0
    copies: str = "tile"
    fixed: Mapping[str, Any] = MappingProxyType({})
    channels: int = 0
    side: int = 1
    nearest: float | None = None
    white_box: bool = True
    remark: str | None = BATCH


ATTACKS = {
    "APGD": Foreign(("linf", "l2"), None, once=2),
    "APGDT": Foreign(
        ("linf", "l2"), None, once=3, remark=f"{BATCH}; for l2 the first row's step size serves all of the batch"
    ),
    "BIM": Foreign(remark=None),
    "CW": Foreign(("l2",), None, nearest=1, remark=f"{NEAREST}, or when the batch stalls; pixels at 0 or 1 never move"),
    "DIFGSM": Foreign(),
    "DeepFool": Foreign(("l2",), None, copies="single", nearest=1, remark=NEAREST),
    "EADEN": Foreign(("l2",), None, 6, 1, fixed=ELASTIC, nearest=1, remark=NEAREST),
    "EADL1": Foreign(("l1",), None, 6, 1, fixed=ELASTIC, nearest=1, remark=NEAREST),
    "EOTPGD": Foreign(per_step=2),
    "FAB": Foreign(("linf", "l2"), None, 2, 3, nearest=0.95, remark=f"{NEAREST}; restarts repeat the first"),
    "FFGSM": Foreign(share=1.25, per_step=0, once=1, remark=f"{ONE_STEP}; {BATCH}"),
    "FGSM": Foreign(share=None, per_step=0, once=1, remark=ONE_STEP),
    "Jitter": Foreign(fixed=dict(scale=1)),  # else its noise outweighs so small a margin
    "MIFGSM": Foreign(remark=None),
    "NIFGSM": Foreign(remark=None),
    "PGD": Foreign(),
    "PGDL2": Foreign(("l2",), 0.2),
    "PGDRS": Foreign(per_step=5, copies="interleave", fixed=SMOOTHED, remark=NOISY),
    "PGDRSL2": Foreign(("l2",), 0.2, 5, copies="interleave", fixed=SMOOTHED, remark=NOISY),
    "PIFGSM": Foreign(share=None, channels=3, remark=None),
    "PIFGSMPP": Foreign(share=None, channels=3, remark="made to transfer: blurs the gradient"),
    "RFGSM": Foreign(),
    "SINIFGSM": Foreign(per_step=5, remark="made to transfer: follows gradients at darkened copies"),
    "SPSA": Foreign(per_step=16, fixed=dict(nb_sample=8), white_box=False),
    "Square": Foreign(("linf", "l2"), None, once=3, side=5, white_box=False),
    "TIFGSM": Foreign(channels=3, remark=f"made to transfer: blurs the gradient; {BATCH}"),
    "UPGD": Foreign(),
    "VMIFGSM": Foreign(per_step=6),
    "VNIFGSM": Foreign(per_step=6),
}
FEW_PIXELS = "limits how many pixels change, not how much. Use torchattacks:EADL1 with norm = l1"
REFUSED = {
    "AutoAttack": "is four attacks with budgets of their own. Make APGD, APGDT, FAB and Square members of a suite",
    "GN": "is noise of any size. Use random-search",
    "JSMA": FEW_PIXELS,
    "LGV": "trains the network it attacks. Use torchattacks:PGD",
    "MultiAttack": "is a list of attacks. Make them members of a suite",
    "OnePixel": FEW_PIXELS,
    "Pixle": FEW_PIXELS,
    "SparseFool": FEW_PIXELS,
    "TPGD": "drives the score away from the clean one in either direction. Use torchattacks:PGD",
    "VANILA": "changes nothing. Use torchattacks:PGD",
}


def names() -> list[str]:
    """The attacks of torchattacks that can be asked for."""
    return list(ATTACKS)


def remark(name: str) -> str | None:
    """What a reader of this attack's numbers must know, in one line; None where nothing."""
    return _foreign(name).remark


def from_torchattacks(name: str) -> Whole:
    """The attack of that name as a search of ours.

    `search` takes the arguments of `attack.maximise` without `attack`. One query goes to the clean input even where
    that is no candidate: it sets the scale. Each restart's returned image is projected and scored again, and competes
    with every point inside the limits that was asked about on the way. `init` other than "clean" asks for a random
    start where the attack offers one; `iterate` must be "best".

    Args:
        name: as in torchattacks, e.g. "PGDL2".

    Returns:
        The search. It raises ValueError where threat model or images do not fit the attack, FloatingPointError where
        the loss of a clean input is not finite.

    Raises:
        ValueError: torchattacks has no such attack, or it fits no score.
    """
    foreign = _foreign(name)

    def search(
        loss: Loss,
        x: Tensor,
        threat: ThreatModel,
        random: RowRandom,
        *,
        keep_clean: bool,
        enough: Tensor | None = None,
        confirm: Judge | None = None,
        judge: Judge | None = None,
        crossing: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Found:
        steps = _check(name, foreign, threat, x, extra=(judge is not None, confirm is not None), crossing=crossing)
        book = _Book(loss, x, threat, foreign, enough, confirm, judge, progress or (lambda _: None))
        book.clean(keep_clean=keep_clean)
        for each in steps:
            rows = book.unfinished()
            if len(rows):
                seeds = random.take(rows).integers(2**31 - 1, ())
                for part in rows.split(1) if foreign.copies == "single" else (rows,):
                    _run(name, foreign, book, part, each, int(seeds.sum()) % 2**31)
                book.compare(rows)
        return book.found()

    return Whole(search, foreign.white_box)


def _foreign(name: str) -> Foreign:
    if name in REFUSED:
        raise ValueError(f"`attack` must fit a score within a ball, got torchattacks:{name}, which {REFUSED[name]}.")
    if name not in ATTACKS:
        raise unknown("attack", name, list(ATTACKS))
    return ATTACKS[name]


def _check(
    name: str, foreign: Foreign, threat: ThreatModel, x: Tensor, *, extra: tuple[bool, bool], crossing: bool
) -> list[int]:
    """Refuse what the attack cannot do; return the steps of each restart."""
    if threat.norm not in foreign.norms:
        fit = ", ".join(n for n, f in ATTACKS.items() if threat.norm in f.norms) or "none of torchattacks"
        rule = f"be {' or '.join(foreign.norms)} with torchattacks:{name}"
        raise ValueError(f"`norm` must {rule}, got {threat.norm!r}. Attacks for that norm: {fit}.")
    if x.ndim != 4 or min(x.shape[2:]) < foreign.side:
        rule = f"have shape (B, C, H, W) and sides >= {foreign.side} with torchattacks:{name}"
        raise ValueError(f"`x` must {rule}, got {tuple(x.shape)}. Use pgd or random-search.")
    if (name, threat.norm) == ("Square", "l2") and not all(_windows_fit(side) for side in x.shape[2:]):
        rule = "have sides that five windows fit into (8, 28, 32, 64 and 224 do) with torchattacks:Square and l2"
        raise ValueError(f"`x` must {rule}, got {tuple(x.shape)}. Use square.")
    if foreign.channels and x.shape[1] != foreign.channels:
        rule = f"have {foreign.channels} channels with torchattacks:{name}"
        raise ValueError(f"`x` must {rule}, got {x.shape[1]}. Use torchattacks:MIFGSM.")
    if threat.step_size is not None and foreign.share is None:
        raise ValueError(f"`step_size` must be absent with torchattacks:{name}, got {threat.step_size}. Drop it.")
    if threat.iterate != "best" or crossing:
        got = "a crossing" if crossing else repr(threat.iterate)
        raise ValueError(f"`iterate` must be 'best' with torchattacks, got {got}. Use an attack of this package.")
    first, each = 1 + extra[0], 1 + sum(extra)  # the clean input; the returned image, its judgement, a confirmation
    share = (threat.queries // (threat.draws or 1) - first) // threat.restarts - each
    if share < foreign.once + foreign.per_step:
        least = ((foreign.once + foreign.per_step + each) * threat.restarts + first) * (threat.draws or 1)
        raise ValueError(f"`queries` must be >= {least} with torchattacks:{name}, got {threat.queries}. Raise it.")
    return [(share - foreign.once) // foreign.per_step if foreign.per_step else 1] * threat.restarts


def _windows_fit(side: int) -> bool:
    """Whether the first point of their Square attack for l2, side // 5 pixels a window, stays in the image."""
    window = side // 5
    return window == 1 or (side - 5 * window) // 2 + side // window * window <= side


def _run(name: str, foreign: Foreign, book: "_Book", rows: Tensor, steps: int, seed: int) -> None:
    """One run of the foreign attack on some rows; whatever it finds is in the book afterwards."""
    import torchattacks

    x = book.x[rows]
    budget = foreign.once + steps * foreign.per_step
    classifier = _Classifier(book, rows, budget, foreign)
    build = getattr(torchattacks, name)
    with _own_random(seed):
        attack = build(classifier, **_arguments(build, foreign, book.threat, steps, seed, x[0].numel()))
        try:
            x_adv = attack(x.detach().float(), torch.zeros(len(x), dtype=torch.long, device=x.device))
        except _Spent:
            return
    x_adv = x_adv.detach().to(x)
    point = book.threat.project(x_adv.where(x_adv.isfinite(), x), x)
    book.keep(book.ask(point, rows, needs_grad=False), rows)


def _arguments(
    build: Any, foreign: Foreign, threat: ThreatModel, steps: int, seed: int, pixels: int
) -> dict[str, object]:
    """What the constructor is called with: of our numbers those it has a word for."""
    words = inspect.signature(build).parameters
    ours: dict[str, object] = {"norm": THEIRS[threat.norm], "seed": seed, "n_classes": 2}
    ours |= dict.fromkeys(("eps", "max_epsilon"), threat.eps)
    ours |= dict.fromkeys(("steps", "num_iter_set", "n_queries", "nb_iter", "max_iterations"), steps)
    ours |= {"random_start": threat.init != "clean"}
    if foreign.share is not None:
        ours |= dict.fromkeys(("alpha", "lr"), (threat.step_size or foreign.share) * threat.eps)
    elif "c" in words:  # CW: Adam moves every pixel by about lr / 2 a step
        ours["lr"] = threat.eps / pixels**0.5 / 2
    # a linear loss crosses if its margin weighs 2 eps^2 or more against distance^2; EAD has few and plain steps for it
    ours |= {"c": 3 * threat.eps**2, "initial_const": 100 * threat.eps**2, **foreign.fixed}
    return {word: value for word, value in ours.items() if word in words}


@contextmanager
def _own_random(seed: int) -> Iterator[None]:
    """Torch's global random numbers, seeded here and put back as they were afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class _Spent(Exception):
    """The budget of a run is spent; ends the foreign loop from inside the classifier."""


class _Book:
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
        low = x.new_full((len(x),), -float("inf"))
        self.enough = -low if enough is None else enough
        self.x_adv, self.value = x.clone(), low
        self.now_x, self.now = x.clone(), low.clone()  # of the restart that runs, by the loss
        self.scale = torch.zeros_like(low)  # first-order gain at the clean input, or the first difference seen
        counters = torch.zeros(5, len(x), dtype=torch.long, device=x.device)
        self.queries, self.gradients, self.zero_gradients, self.non_finite, self.stopped = counters
        self.clean_best = torch.zeros(len(x), dtype=torch.bool, device=x.device)

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
            raise FloatingPointError(f"the loss must be finite on clean inputs, got {bad} of {len(rows)} that are not.")
        self.at_clean = seen.value
        self.measure(seen, rows)
        gain = (self.foreign.nearest or 1) * self.scale.where(self.scale > 0, 1)
        left = self.enough.to(self.value.dtype) - self.at_clean
        self.threshold = self.at_clean + left.where((left > 0) & (left < gain), gain)
        if keep_clean:
            self.value, self.clean_best = merit.clone(), torch.ones_like(self.clean_best)

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
        return Found(
            self.threat.settle(self.x_adv, self.x),
            self.value,
            self.queries,
            self.gradients,
            self.zero_gradients,
            self.non_finite,
            self.clean_best,
            self.stopped,
        )


class _Classifier(nn.Module):
    """Four logits for the foreign attack; the first is the true class, the second rises with the loss."""

    def __init__(self, book: _Book, rows: Tensor, left: int, foreign: Foreign) -> None:
        super().__init__()
        self.device_tag = nn.Parameter(rows.new_zeros(0, dtype=torch.float32))  # they look here for the device
        self.book, self.rows, self.left, self.foreign = book, rows, left, foreign

    def forward(self, images: Tensor) -> Tensor:
        """Ask about the images, each row k times in a batch, and answer with logits (N, 4)."""
        book, n = self.book, len(self.rows)
        copies, rest = divmod(len(images), n)
        assert not rest, "the batch must hold every row equally often"
        if copies > self.left:
            raise _Spent
        self.left -= copies
        places = torch.arange(len(images), device=images.device)  # (n, copies), where in the batch each row is
        places = places.view(copies, n).T if self.foreign.copies == "tile" else places.view(n, copies)
        rows = self.rows.new_empty(len(images))
        rows[places] = self.rows[:, None].expand_as(places)
        point, inside = self._within(images, book.x[rows])
        needs_grad = self.foreign.white_box and images.requires_grad and torch.is_grad_enabled()
        seen = book.ask(point, rows, needs_grad=needs_grad)
        allowed = seen.value.where(inside, -float("inf"))[places]
        best = places.gather(1, allowed.argmax(1, keepdim=True)).flatten()
        book.keep(Seen(seen.x_adv[best], allowed.amax(1), None), self.rows)
        first = places[:, 0]
        book.measure(Seen(point, seen.value[first], None if seen.grad is None else seen.grad[first]), self.rows)
        return self._logits(images, seen, rows)

    def _within(self, images: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images in the [0, 1] box, and which of them are in the ball: those are projected, to be so exactly."""
        point = images.detach().to(x.dtype).clamp(0, 1)
        point = point.where(point.isfinite(), x)  # they divide a zero gradient by its size
        projected = self.book.threat.project(point, x)
        inside = (projected - point).abs().flatten(1).amax(1) <= ROUNDING
        return projected.where(wide(inside, x), point), inside

    def _logits(self, images: Tensor, seen: Seen, rows: Tensor) -> Tensor:
        """(1, 0.5 + u / (1 + |u|) / 4, -1, -1) with u = gain / scale; in backward as if it were (1, u / 4, -1, -1).

        For a threshold (10, 10 + u, 0, 0) with u = (L - threshold) / scale.
        """
        book = self.book
        scale = book.scale[rows].where(book.scale[rows] > 0, 1)
        start = book.threshold if self.foreign.nearest else book.at_clean
        u = ((seen.value - start[rows]) / scale).clamp(-1e6, 1e6)
        rising, factor, others = 0.5 + 0.25 * u / (1 + u.abs()), 0.25, (1.0, -1.0, -1.0)
        if self.foreign.nearest:
            rising, factor, others = 10 + u, 1.0, (10.0, 0.0, 0.0)
        rising = rising.to(images.dtype)
        if seen.grad is not None:
            slope = seen.grad * wide(factor / scale, seen.grad)
            rising = _Known.apply(images, rising, slope.to(images.dtype))
        true, *rest = (torch.full_like(rising, value) for value in others)
        return torch.stack([true, rising, *rest], dim=1)


class _Known(torch.autograd.Function):
    """A function of the images whose values and gradients are known already: (N, ...), (N,), (N, ...) -> (N,)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return wide(grad, slope) * slope, None, None
