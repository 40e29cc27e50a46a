"""What all cells of one evaluation share: detectors, images, and how to compute."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from oodattack.detector import Detector, Latent, Surrogate
from oodattack.evaluation.batch import Batch, values, with_room
from oodattack.evaluation.declared import check_latent, sound_class_scores
from oodattack.evaluation.keeper import Keeper
from oodattack.evaluation.outcome import OodSet
from oodattack.evaluation.plan import Guide, Unfit, blinded, followed_latent, guide_of, is_blind, latents
from oodattack.evaluation.score import score
from oodattack.evaluation.subject import Explained, Steadiness, Subject, explained_by_gradient, look_over
from oodattack.geometry import row_random
from oodattack.keep_graph import reaches
from oodattack.metrics import same_scores
from oodattack.threat import ThreatModel

Precision = Literal["full", "bfloat16"]
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
    certify: bool
    keeper: Keeper
    label: str = ""
    subjects: dict[str, Subject] = field(default_factory=dict)
    _explained: dict[tuple[str, str], Explained] = field(default_factory=dict)
    _followed: dict[tuple[str, str], Latent | None] = field(default_factory=dict)
    _sound: set[tuple[str, str | None, str | None]] = field(default_factory=set)
    _smooth: dict[Latent, bool] = field(default_factory=dict)
    _on_id: dict[Latent, Tensor] = field(default_factory=dict)
    done: int = 0
    total: int = 0

    def begin(self, sets: dict[str, Tensor]) -> None:
        """Look each detector over, on the ID images and those of every set that is attacked."""
        on_id = {name: self.score(name, self.id, "id") for name in self.detectors}
        steady = {name: self._steadiness(name, scores) for name, scores in on_id.items()}
        for name, detector in self.detectors.items():
            self.subjects[name] = look_over(detector, on_id[name], steady[name], self.id, sets, self.batch, self.seed)

    def explained(self, name: str, ood: OodSet) -> Explained:
        """See `explained_by_gradient`; asked once."""
        key = (name, ood.name)
        if key not in self._explained:
            self._explained[key] = explained_by_gradient(self.subjects[name], self.id, ood, self.batch, self.seed)
        return self._explained[key]

    def score(self, name: str, x: Tensor, what: str, *, rounded: bool = False, finite: bool = True) -> Tensor:
        """The untouched detector's scores, on the CPU; see `score`."""
        detector = self.detectors[name]
        return score(detector, name, x, batch=self.batch, what=what, rounded=rounded, finite=finite)

    def plan(self, name: str, threat: ThreatModel) -> tuple[Guide, ThreatModel]:
        """What a search on a detector follows, and the search: a blind one where there is nothing to differentiate.

        Raises:
            Unfit: nothing that the threat model asks for.
        """
        height, width = self.id.shape[2:]
        if threat.norm == "patch" and threat.eps >= max(height, width):
            raise Unfit(f"a patch of {threat.eps:.0f} x {threat.eps:.0f} covers an image of {height} x {width}")
        stand_in = None if is_blind(threat) else self.subjects[name].stand_in
        guide = self._guide(name, threat, stand_in)
        if is_blind(threat):
            return guide, threat
        if guide.f not in self._smooth:
            flat = guide.f is self.detectors[name] and self.subjects[name].flat
            self._smooth[guide.f] = not flat and reaches(guide.f, self.id[:1])
        if self._smooth[guide.f]:
            return guide, threat
        if guide.judge is not None or threat.objective == "misclassify":
            raise Unfit("the network's logits have no gradient")
        return guide_of(self.detectors[name], threat, stand_in=None), blinded(threat)

    def _guide(self, name: str, threat: ThreatModel, stand_in: Surrogate | None) -> Guide:
        """See `guide_of`; latents are looked over, once, where they are followed or measured."""
        detector, followed = self.detectors[name], self._follow(name, threat.objective)
        guide = guide_of(detector, threat, stand_in=stand_in, followed=followed)
        key = (name, threat.match or threat.objective, guide.surrogate)  # a stand-in has a latent of its own
        if key not in self._sound:
            for f in latents(guide, detector, threat):
                with_room(2, self.batch, lambda rows, f=f: check_latent(f, self.id[:rows]))  # type: ignore[misc]
            self._sound.add(key)
        return guide

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
        """Count row-queries as done, and report the progress."""
        self.done += queries
        if self.progress:
            self.progress(self.label, min(self.done, self.total), self.total)

    def _steadiness(self, name: str, scores: Tensor) -> Steadiness:
        """Whether ID scores repeat, up to rounding: in the same batch, and one row at a time."""
        first = self.id[: self.batch.size]
        before = scores[: len(first)]
        alone = torch.cat([self.score(name, row[None], "id", finite=False) for row in first[:4]])
        if not alone.isfinite().all():
            raise ValueError(
                f"detector {name!r} must score one image alone, got {alone[~alone.isfinite()][0]:g}, in its batch "
                f"{before[: len(alone)][~alone.isfinite()][0]:.3g}. Do not normalise over the batch."
            )
        repeatable = same_scores(self.score(name, first, "id"), before, before)
        return Steadiness(repeatable, same_scores(alone, before[: len(alone)], before) if repeatable else None)

    def target_rows(self, threat: ThreatModel, ood_name: str, n: int) -> Tensor | None:
        """The ID image that each of n rows is to match, or None for other aims; the same for every detector."""
        which = self.target_numbers(threat, ood_name, n)
        if which is None:
            return None
        pool = self.id if threat.paired else self.targets
        assert pool is not None  # `evaluate` has seen to it
        return pool[which]

    def target_numbers(self, threat: ThreatModel, ood_name: str, n: int) -> Tensor | None:
        """Where these images are: among the ID images of a paired threat model, else among the targets."""
        if threat.aim != "match":
            return None
        rows = torch.arange(n, device=self.id.device)
        if threat.paired:
            return rows % len(self.id)
        assert self.targets is not None
        order = row_random(self.seed, f"{ood_name}/targets", range(len(self.targets)), self.id.device, torch.float32)
        shuffled = order.uniform((1,)).flatten().argsort()  # every target is used before one is used twice
        return shuffled[rows % len(self.targets)]
