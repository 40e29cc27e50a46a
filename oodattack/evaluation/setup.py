"""What all cells of one evaluation share: detectors, images, and how to compute."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from oodattack.between import pairs, slope_ratio, unexplained_share
from oodattack.detector import Detector, Latent, Score, Surrogate
from oodattack.evaluation.batch import Batch, answered, values, with_room
from oodattack.evaluation.declared import check_latent, sound_class_scores, sound_surrogate
from oodattack.evaluation.keeper import Keeper
from oodattack.evaluation.plan import Quarry, Unfit, blinded, followed_latent, is_blind, latents, quarry
from oodattack.evaluation.score import score
from oodattack.geometry import row_random
from oodattack.keep_graph import keeping_graph, reaches
from oodattack.probe import ROWS, Probe, probe, trouble
from oodattack.threat import ThreatModel

BESIDE = 8 / 255  # noise on images at which a gradient is looked at too: searches that start in a ball see no other
ALIKE = 0.9  # likeness of a gradient and differences, below which it may pay to keep the graph of a score,
BETTER = 0.1  # if that is so much more like them
Precision = Literal["full", "bfloat16"]
Progress = Callable[[str, int, int], None]  # (what is running, row-queries done, row-queries in all)


class Subject(NamedTuple):
    """A detector that was looked over before any search.

    Attributes:
        detector: untouched.
        id_scores: its scores of the ID images, shape (N,).
        repeatable: whether two calls say the same, up to rounding.
        row_independent: whether a row alone says the same as in its batch.
        stand_in: what is differentiated in its place: the surrogate that it declares, if that works on its network, or
            the score with its graph kept; None for the score itself.
        trouble: by attacked set, what is wrong with the gradient of the score there, in words; None where nothing is
            or something stands in for it.
        slope_ratio: by attacked set, see `between.slope_ratio`, between the ID images and it, of what is
            differentiated; None where its gradient is in trouble already.
        unexplained: by attacked set, see `between.unexplained_share`, likewise; not there where a declared surrogate is
            differentiated, whose gradient may be that of another function.
    """

    detector: Detector
    id_scores: Tensor
    repeatable: bool
    row_independent: bool
    stand_in: Surrogate | None
    trouble: dict[str, str | None]
    slope_ratio: dict[str, float | None]
    unexplained: dict[str, float | None]


@dataclass
class Setup:
    """The arguments of `evaluate`, and what every cell needs of them."""

    detectors: dict[str, Detector]
    id: Tensor
    ood: dict[str, Tensor]
    targets: Tensor | None
    starts: dict[str, Tensor]
    seed: int
    batch: Batch
    precision: Precision
    progress: Progress | None
    certify: bool
    keeper: Keeper
    label: str = ""
    subjects: dict[str, Subject] = field(default_factory=dict)
    _followed: dict[tuple[str, str], Latent | None] = field(default_factory=dict)
    _sound: set[tuple[str, str | None]] = field(default_factory=set)
    _smooth: dict[Latent, bool] = field(default_factory=dict)
    _on_id: dict[Latent, Tensor] = field(default_factory=dict)
    done: int = 0
    total: int = 0

    def begin(self, sets: dict[str, Tensor]) -> None:
        """Look each detector over, on the ID images and those of every set that is attacked."""
        on_id = {name: self.score(name, self.id, "id") for name in self.detectors}
        steady = {name: self._steadiness(name, scores) for name, scores in on_id.items()}
        for name, detector in self.detectors.items():
            stand_in, found = self._stand_in(detector, sets)
            f = stand_in.score if stand_in else detector
            own = stand_in is None or stand_in is not getattr(detector, "surrogate", None)
            some = {which: x for which, x in sets.items() if not found[which]}
            ratios = dict.fromkeys(sets) | {which: self._paired(slope_ratio, f, x) for which, x in some.items()}
            shares = {which: self._paired(unexplained_share, f, x) for which, x in some.items() if own}
            self.subjects[name] = Subject(detector, on_id[name], *steady[name], stand_in, found, ratios, shares)

    def score(self, name: str, x: Tensor, what: str, *, rounded: bool = False, finite: bool = True) -> Tensor:
        """The untouched detector's scores, on the CPU; see `score`."""
        detector = self.detectors[name]
        return score(detector, name, x, batch=self.batch, what=what, rounded=rounded, finite=finite)

    def plan(self, name: str, limits: ThreatModel) -> tuple[Quarry, ThreatModel]:
        """What a search on a detector follows, and the search: a blind one where there is nothing to differentiate.

        Raises:
            Unfit: nothing that the threat model asks for.
        """
        height, width = self.id.shape[2:]
        if limits.norm == "patch" and limits.eps >= max(height, width):
            raise Unfit(f"a patch of {limits.eps:.0f} x {limits.eps:.0f} covers an image of {height} x {width}")
        stand_in = None if is_blind(limits) else self.subjects[name].stand_in
        prey = self._quarry(name, limits, stand_in)
        if is_blind(limits):
            return prey, limits
        if prey.f not in self._smooth:
            self._smooth[prey.f] = reaches(prey.f, self.id[:1])
        if self._smooth[prey.f]:
            return prey, limits
        if prey.judge is not None or limits.objective == "misclassify":
            raise Unfit("the network's logits have no gradient")
        return quarry(self.detectors[name], limits, stand_in=None), blinded(limits)

    def _quarry(self, name: str, limits: ThreatModel, stand_in: Surrogate | None) -> Quarry:
        """See `quarry`; latents are looked over, once, where they are followed or measured."""
        detector, followed = self.detectors[name], self._follow(name, limits.objective)
        prey = quarry(detector, limits, stand_in=stand_in, followed=followed)
        key = (name, limits.match or limits.objective)
        if key not in self._sound:
            for f in latents(prey, detector, limits):
                with_room(2, self.batch, lambda rows, f=f: check_latent(f, self.id[:rows]))  # type: ignore[misc]
            self._sound.add(key)
        return prey

    def _follow(self, name: str, objective: str | None) -> Latent | None:
        """What a detector has for the objectives "latent" and "class-logits", looked over once."""
        if objective not in ("latent", "class-logits"):
            return None
        key, detector = (name, objective), self.detectors[name]
        if key not in self._followed:
            if objective == "latent":
                found = followed_latent(detector, self.subjects[name].stand_in, self.id[:1])
            else:
                found = with_room(2, self.batch, lambda rows: sound_class_scores(detector, self.id[:rows]))
            self._followed[key] = found
        return self._followed[key]

    def values(self, f: Latent, x: Tensor) -> Tensor:
        """f over all rows; what it says of the ID images is kept."""
        if x is not self.id:
            return values(f, x, self.batch)
        if f not in self._on_id:
            self._on_id[f] = values(f, x, self.batch)
        return self._on_id[f]

    def advance(self, queries: int) -> None:
        """Tell the user how far it is."""
        self.done += queries
        if self.progress:
            self.progress(self.label, min(self.done, self.total), self.total)

    def _steadiness(self, name: str, scores: Tensor) -> tuple[bool, bool]:
        """Whether ID scores repeat, up to rounding: in the same batch, and one row at a time."""
        first = self.id[: self.batch.size]
        before = scores[: len(first)]
        slack = 1e-3 * (before.amax() - before.amin()) + 1e-5 * before.abs().amax()
        alone = torch.cat([self.score(name, row[None], "id", finite=False) for row in first[:4]])
        repeatable = bool(((self.score(name, first, "id") - before).abs() <= slack).all())
        return repeatable, bool(((alone - before[: len(alone)]).abs() <= slack).all())

    def _stand_in(self, detector: Detector, sets: dict[str, Tensor]) -> tuple[Surrogate | None, dict[str, str | None]]:
        """What stands in for a score, and what is wrong with its gradient on each set if nothing does; see `Subject`.

        A graph is kept where one set needs it, and if finite differences confirm its gradient on all of them.
        """
        if declared := with_room(2, self.batch, lambda rows: sound_surrogate(detector, self.id[:rows])):
            return declared, dict.fromkeys(sets)  # which answers for itself
        return with_room(ROWS, self.batch, lambda rows: self._probed(detector, sets, max(rows // 2, 1)))

    def _probed(
        self, detector: Detector, sets: dict[str, Tensor], rows: int
    ) -> tuple[Surrogate | None, dict[str, str | None]]:
        """The same for a detector that declares no surrogate, from so many rows of each set."""
        some = {which: torch.cat([a_few(self.id, rows), a_few(x, rows)]) for which, x in sets.items()}
        looked = {which: self._twice(detector, x) for which, x in some.items()}
        found = {which: trouble(there) or beside(trouble(near)) for which, (there, near) in looked.items()}
        alike = min(likeness(probes) for probes in looked.values())
        if not any(found.values()) and alike >= ALIKE:
            return None, found
        kept = [keeping_graph(detector, at, seed=self.seed) for x in some.values() for at in (x, self._beside(x))]
        if not all(kept):
            return None, found
        stand_in = kept[0]
        assert stand_in is not None
        if not any(found.values()):  # a graph that is whole already is not worth a word
            looked = {which: self._twice(stand_in.score, x) for which, x in some.items()}
            if min(likeness(probes) for probes in looked.values()) < alike + BETTER:
                return None, found
        return stand_in, dict.fromkeys(sets)

    def _twice(self, f: Score, x: Tensor) -> tuple[Probe, Probe]:
        """What a probe says at images, and beside them, where searches begin."""
        asked = partial(answered, f)
        return probe(asked, x, seed=self.seed), probe(asked, self._beside(x), seed=self.seed)

    def _beside(self, x: Tensor) -> Tensor:
        noise = row_random(self.seed, "beside", range(len(x)), x.device, x.dtype).uniform(x.shape[1:])
        return (x + BESIDE * (2 * noise - 1)).clamp(0, 1)

    def _paired(self, of: Callable[..., float | None], f: Score, x: Tensor) -> float | None:
        """What `of` says of a score between the ID images and another set."""
        some = pairs(self.id, x, seed=self.seed)
        return with_room(len(some[0]), self.batch, lambda rows: of(partial(answered, f), *some, at_once=rows))

    def target_rows(self, limits: ThreatModel, ood_name: str, n: int) -> Tensor | None:
        """The ID image that each of n rows is to match, or None for other aims; the same for every detector."""
        which = self.target_numbers(limits, ood_name, n)
        if which is None:
            return None
        pool = self.id if limits.paired else self.targets
        assert pool is not None  # `evaluate` has seen to it
        return pool[which]

    def target_numbers(self, limits: ThreatModel, ood_name: str, n: int) -> Tensor | None:
        """Where these images are: among the ID images of a paired threat model, else among the targets."""
        if limits.aim != "match":
            return None
        rows = torch.arange(n, device=self.id.device)
        if limits.paired:
            return rows % len(self.id)
        assert self.targets is not None
        order = row_random(self.seed, f"{ood_name}/targets", range(len(self.targets)), self.id.device, torch.float32)
        shuffled = order.uniform((1,)).flatten().argsort()  # every target is used before one is used twice
        return shuffled[rows % len(self.targets)]


def a_few(x: Tensor, most: int) -> Tensor:
    """At most so many images, evenly spaced."""
    return x[torch.linspace(0, len(x) - 1, min(len(x), most)).round().long().to(x.device)]


def beside(trouble: str | None) -> str | None:
    """Trouble that is found beside the images, where nothing is wrong at them."""
    return trouble and f"{trouble}, with noise of 8/255 on the images"


def likeness(probes: tuple[Probe, Probe]) -> float:
    """The lower of two, of gradients and differences in random directions; 1 where there is none."""
    return min(1.0 if found.across is None else found.across for found in probes)
