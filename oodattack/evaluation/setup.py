"""What all cells of one evaluation share: detectors, images, and how to compute."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodattack.detector import Detector, Latent, Surrogate
from oodattack.evaluation.batch import Batch, values
from oodattack.evaluation.keeper import Keeper
from oodattack.evaluation.plan import Quarry, Unfit, blinded, followed_latent, is_blind, quarry
from oodattack.evaluation.score import score
from oodattack.evaluation.search import Precision
from oodattack.geometry import row_random
from oodattack.keep_graph import keeping_graph, reaches
from oodattack.probe import probe, trouble
from oodattack.threat import ThreatModel

Progress = Callable[[str, int, int], None]  # (what is running, row-queries done, row-queries in all)


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
    certify: bool = False
    keeper: Keeper = field(default_factory=Keeper)
    label: str = ""
    id_scores: dict[str, Tensor] = field(default_factory=dict)
    steady: dict[str, dict[str, bool]] = field(default_factory=dict)
    trouble: dict[str, str | None] = field(default_factory=dict)
    no_surrogate: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, Surrogate | None] = field(default_factory=dict)
    _followed: dict[str, Latent | None] = field(default_factory=dict)
    _smooth: dict[Latent, bool] = field(default_factory=dict)
    _on_id: dict[Latent, Tensor] = field(default_factory=dict)
    done: int = 0
    total: int = 0

    def begin(self) -> None:
        """Score the ID images and look each detector over."""
        self.id_scores = {name: self.score(name, self.id, "id") for name in self.detectors}
        self.steady = {name: self._steadiness(name) for name in self.detectors}
        self.trouble = {name: self._trouble(name) for name in self.detectors}

    def score(self, name: str, x: Tensor, what: str, *, rounded: bool = False) -> Tensor:
        """The untouched detector's scores, on the CPU."""
        return score(self.detectors[name], name, x, batch=self.batch, what=what, rounded=rounded)

    def plan(self, name: str, limits: ThreatModel) -> tuple[Quarry, ThreatModel]:
        """What a search on a detector follows, and the search: a blind one where there is nothing to differentiate.

        Raises:
            Unfit: nothing that the threat model asks for.
        """
        detector = self.detectors[name]
        if limits.objective == "latent" and name not in self._followed:
            self._followed[name] = followed_latent(detector, self.stand_ins[name], self.id[:1])
        if is_blind(limits):
            return quarry(detector, limits, stand_in=None), limits
        prey = quarry(detector, limits, stand_in=self.stand_ins[name], latent=self._followed.get(name))
        if prey.f not in self._smooth:
            self._smooth[prey.f] = reaches(prey.f, self.id[:1])
        if self._smooth[prey.f]:
            return prey, limits
        if prey.judge is not None or limits.objective == "misclassify":
            raise Unfit("the network's logits have no gradient")
        return quarry(detector, limits, stand_in=None), blinded(limits)

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

    def _steadiness(self, name: str) -> dict[str, bool]:
        """Whether ID scores repeat, in the same batch and one row at a time, up to rounding."""
        first = self.id[: self.batch.size]
        before = self.id_scores[name][: len(first)]
        slack = 1e-3 * (before.amax() - before.amin()) + 1e-5 * before.abs().amax()
        alone = torch.cat([self.score(name, row[None], "id") for row in first[:4]])
        return {
            "repeatable": bool(((self.score(name, first, "id") - before).abs() <= slack).all()),
            "row_independent": bool(((alone - before[: len(alone)]).abs() <= slack).all()),
        }

    def _trouble(self, name: str) -> str | None:
        """What is wrong with the gradient of a score, in words; None where something else is followed in its place.

        That is a declared surrogate that works, which answers for itself, or the score with its graph kept.
        """
        detector = self.detectors[name]
        self.stand_ins[name] = stand_in = self._declared(name)
        if stand_in is not None:
            return None
        sets = [self.id, *list(self.ood.values())[:1]]
        some = torch.cat([x[torch.linspace(0, len(x) - 1, min(len(x), 8)).round().long().to(x.device)] for x in sets])
        found = trouble(probe(detector, some, seed=self.seed))
        if found is not None:
            self.stand_ins[name] = keeping_graph(detector, some, seed=self.seed)
        return None if self.stand_ins[name] else found

    def _declared(self, name: str) -> Surrogate | None:
        """The surrogate that a detector declares, if that works on its network."""
        stand_in: Surrogate | None = getattr(self.detectors[name], "surrogate", None)
        if stand_in is None:
            return None
        try:
            stand_in.score(self.id[:1])
        except ValueError as reason:  # such as a network whose non-linearities it does not know
            self.no_surrogate[name] = str(reason)
            return None
        return stand_in

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
