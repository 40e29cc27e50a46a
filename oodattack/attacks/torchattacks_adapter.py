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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from oodattack.attack import Found, Whole
from oodattack.attacks.torchattacks_book import Book, Judge
from oodattack.attacks.torchattacks_classifier import FourLogits, Spent
from oodattack.attacks.torchattacks_fit import steps_of_restarts
from oodattack.attacks.torchattacks_table import ATTACKS, Foreign, find_foreign
from oodattack.geometry import RowRandom
from oodattack.loss import Loss
from oodattack.threat import ThreatModel

THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def names() -> list[str]:
    """The attacks of torchattacks that can be asked for."""
    return list(ATTACKS)


def remark(name: str) -> str | None:
    """What a reader of this attack's numbers must know, in one line; None where nothing."""
    return find_foreign(name).remark


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
    foreign = find_foreign(name)

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
        steps = steps_of_restarts(
            name, foreign, threat, x, extra=(judge is not None, confirm is not None), crossing=crossing
        )
        book = Book(loss, x, threat, foreign, enough, confirm, judge, progress or (lambda _: None))
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


def _run(name: str, foreign: Foreign, book: Book, rows: Tensor, steps: int, seed: int) -> None:
    """One run of the foreign attack on some rows; whatever it finds is in the book afterwards."""
    import torchattacks

    x = book.x[rows]
    budget = foreign.once + steps * foreign.per_step
    classifier = FourLogits(book, rows, budget, foreign)
    build = getattr(torchattacks, name)
    with _own_random(seed):
        attack = build(classifier, **_arguments(build, foreign, book.threat, steps, seed, x[0].numel()))
        try:
            x_adv = attack(x.detach().float(), torch.zeros(len(x), dtype=torch.long, device=x.device))
        except Spent:
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
