"""What is known of a detector before any search: what to differentiate, and how far its gradient can be trusted."""

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.between import misled_share, pairs, unexplained_share
from oodattack.data.rows import evenly
from oodattack.detector import Detector, Score, Surrogate
from oodattack.evaluation.batch import Batch, answered, with_room
from oodattack.evaluation.declared import sound_surrogate
from oodattack.evaluation.outcome import OodSet
from oodattack.geometry import row_random
from oodattack.keep_graph import keeping_graph, straight_through
from oodattack.probe import ROWS, Probe, gradient, probe, trouble

BESIDE = 8 / 255  # noise on images at which a gradient is looked at too: searches that start in a ball see no other
ALIKE = 0.9  # likeness of a gradient and differences, below which it may pay to keep the graph of a score,
BETTER = 0.1  # if that is so much more like them
CURVED = 0.8  # likeness; a gradient of another function that leads downhill has 0.3 at most


class Subject(NamedTuple):
    """A detector that was looked over before any search.

    Attributes:
        detector: untouched.
        id_scores: its scores of the ID images, shape (N,).
        repeatable: whether two calls say the same, up to rounding.
        row_independent: whether a row alone says the same as in its batch; None where not even two calls do.
        stand_in: what is differentiated in its place: the surrogate that it declares, if that works on its network, or
            the score with its graph kept, or straight through an obstacle; None for the score itself.
        trouble: by attacked set, what is wrong with the gradient of the score there, in words; None where nothing is,
            or where something stands in for a score that has no gradient, or for one that hides it.
        denied: by attacked set, see `Probe.denied`, of what is differentiated; not there where that is a surrogate that
            the detector declares, or its graph kept.
        flat: whether the gradient of the score is zero on every image of every set, beside it, and on noise: it is as
            good as none.
    """

    detector: Detector
    id_scores: Tensor
    repeatable: bool
    row_independent: bool | None
    stand_in: Surrogate | None
    trouble: dict[str, str | None]
    denied: dict[str, float | None]
    flat: bool


class Steadiness(NamedTuple):
    """Whether a detector says the same, up to rounding, whenever it is asked about an image."""

    repeatable: bool  # in a second call
    row_independent: bool | None  # alone, and in its batch; None: two calls differ, which shows nothing of rows


class Followed(NamedTuple):
    """What a search on a detector's score differentiates, and what is wrong with that; see `Subject`."""

    stand_in: Surrogate | None
    trouble: Mapping[str, str | None] = MappingProxyType({})
    denied: Mapping[str, float | None] = MappingProxyType({})
    flat: bool = False


def look_over(
    detector: Detector,
    id_scores: Tensor,
    steady: Steadiness,
    id: Tensor,
    sets: dict[str, Tensor],
    batch: Batch,
    seed: int,
) -> Subject:
    """Probe a detector on the ID images and on those of every set that is attacked.

    Args:
        detector: any.
        id_scores: its scores of the ID images.
        steady: whether these repeat, and do not depend on the batch.
        id: the ID images.
        sets: the others, by name.
        batch: how many rows there is room for.
        seed: of directions and noise.
    """
    declared = with_room(2, batch, lambda rows: sound_surrogate(detector, id[:rows]))
    if declared is not None:  # which answers for itself
        followed = Followed(declared)
    else:
        probed = _Probed(detector, id, sets, batch, seed)
        followed = with_room(ROWS, batch, probed.followed)
    trouble = {which: followed.trouble.get(which) for which in sets}
    return Subject(detector, id_scores, *steady, followed.stand_in, trouble, dict(followed.denied), followed.flat)


class _Probed(NamedTuple):
    """A detector that declares no surrogate, and what it is probed on."""

    detector: Detector
    id: Tensor
    sets: dict[str, Tensor]
    batch: Batch
    seed: int

    def followed(self, rows: int) -> Followed:
        """The score with its graph kept, or straight through an obstacle, or else the score itself.

        A graph is kept where one set needs it, and if finite differences confirm its gradient on all of them. An
        obstacle is passed, see `straight_through`, where that leads further up; beside a gradient of the score's own
        that is in trouble, what is wrong with that one stays said.

        Args:
            rows: as many as may be computed at a time.
        """
        each = max(rows // 2, 1)
        some = {which: torch.cat([a_few(self.id, each), a_few(x, each)]) for which, x in self.sets.items()}
        looked = {which: self.twice(self.detector, x) for which, x in some.items()}
        itself = Followed(
            None,
            trouble={which: trouble(there) or trouble_beside(near) for which, (there, near) in looked.items()},
            denied={which: there.denied for which, (there, _) in looked.items()},
            flat=all(found.exists and found.zero == 1 for probes in looked.values() for found in probes)
            and all(self.flat_on(x, rows) for x in (self.id, *self.sets.values())),
        )
        in_trouble = any(itself.trouble.values())
        alike = least_likeness(looked.values())
        if not in_trouble and alike >= ALIKE:
            return itself
        kept = self._graph_kept(some.values())
        if kept is None:
            through = straight_through(self.detector, torch.cat(list(some.values())), seed=self.seed)
            absent = not any(found.exists for probes in looked.values() for found in probes)
            if through is None:
                return itself
            if not (absent or itself.flat):
                return itself._replace(stand_in=through)
            passed = {which: probe(partial(answered, through.score), x, seed=self.seed) for which, x in some.items()}
            return Followed(through, denied={which: found.denied for which, found in passed.items()})
        if not in_trouble:  # the graph was whole: keeping it must make the gradient more like the score's changes
            with_graph = [self.twice(kept.score, x) for x in some.values()]
            if least_likeness(with_graph) < alike + BETTER:
                return itself
        return Followed(kept)

    def _graph_kept(self, some: Iterable[Tensor]) -> Surrogate | None:
        """The score with its graph kept; None where that is not to be had at all of these images and beside them."""
        surrogate = None
        for x in some:
            for at in (x, self.beside(x)):
                kept = keeping_graph(self.detector, at, seed=self.seed)
                if kept is None:
                    return None
                surrogate = surrogate or kept
        assert surrogate is not None
        return surrogate

    def twice(self, f: Score, x: Tensor) -> tuple[Probe, Probe]:
        """What a probe says at images, and beside them, where searches begin."""
        asked = partial(answered, f)
        there = probe(asked, x, seed=self.seed)
        return there, probe(asked, self.beside(x), seed=self.seed) if there.exists else there

    def flat_on(self, x: Tensor, rows: int) -> bool:
        """Whether the gradient is zero on every image, beside it, and on noise, where a search in the whole box begins:
        one row that has a gradient is a row that its search would miss."""
        for block in x.split(rows):
            for at in (block, self.beside(block), self.noise(block)):
                grad, _ = gradient(partial(answered, self.detector), at)
                if grad is not None and grad.any():
                    return False
        return True

    def beside(self, x: Tensor) -> Tensor:
        """The images with noise on them."""
        return (x + BESIDE * (2 * self.noise(x) - 1)).clamp(0, 1)

    def noise(self, x: Tensor) -> Tensor:
        """Uniform in [0, 1], shape of `x`."""
        return row_random(self.seed, "beside", range(len(x)), x.device, x.dtype).uniform(x.shape[1:])


class Explained(NamedTuple):
    """See `between.misled_share` and `between.unexplained_share`, of what is differentiated. None: not asked."""

    misled_share: float | None = None
    unexplained_share: float | None = None


def explained_by_gradient(subject: Subject, id: Tensor, ood: OodSet, batch: Batch, seed: int) -> Explained:
    """How far the gradient explains what tells the ID images from an OOD set.

    Nothing where it is in trouble already. The gradient of a declared surrogate may be that of another function,
    straight through a step: of that `misled_share` alone is asked.

    Args:
        subject: the detector.
        id: the ID images.
        ood: the other ones.
        batch: how many rows there is room for.
        seed: of the pairs.
    """
    if subject.trouble[ood.name]:
        return Explained()
    f = partial(answered, subject.stand_in.score if subject.stand_in else subject.detector)
    some = pairs(id, ood.x, seed=seed)
    misled = with_room(len(some[0]), batch, lambda rows: misled_share(f, *some, at_once=rows))
    if subject.stand_in is not None and subject.stand_in is getattr(subject.detector, "surrogate", None):
        return Explained(misled)
    return Explained(misled, with_room(len(some[0]), batch, lambda rows: unexplained_share(f, *some, at_once=rows)))


def a_few(x: Tensor, most: int) -> Tensor:
    """At most so many images, evenly spaced."""
    return x[evenly(len(x), most).to(x.device)]


def trouble_beside(near: Probe) -> str | None:
    """Trouble that is found beside the images, where nothing is wrong at them.

    Two grey levels along the gradient may cross a kink; that a score is lower there is no trouble where its gradient is
    like its changes in random directions.
    """
    curved = near.across is not None and near.across >= CURVED
    words = trouble(near._replace(uphill=None) if curved else near)
    return words and f"{words}, with noise of 8/255 on the images"


def least_likeness(looked: Iterable[tuple[Probe, Probe]]) -> float:
    """The lowest likeness of gradients and differences in random directions, at images and beside them; 1 for none."""
    return min(1.0 if found.across is None else found.across for both in looked for found in both)
