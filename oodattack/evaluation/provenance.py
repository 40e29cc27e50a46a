"""What only the caller of an evaluation knows about it, for the report."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from oodattack.data import overlaps
from oodattack.data.disk import blocks
from oodattack.identity import sha256_of_images
from oodattack.report import Overlap, Source


class Provenance(NamedTuple):
    """What only the caller of `evaluate` knows, for the report's `spec`.

    Attributes:
        command: the command line.
        samples: images per set that were asked for.
        id_accuracy: network -> accuracy on held-out ID images.
        sources: "id", "targets" or OOD set -> (name, where it comes from).
        learnt: name -> images (N, C, H, W) in [0, 1] that networks or detectors have learnt from.
    """

    command: str | None = None
    samples: int | None = None
    id_accuracy: Mapping[str, float] = MappingProxyType({})
    sources: Mapping[str, tuple[str, str]] = MappingProxyType({})
    learnt: Mapping[str, Tensor] = MappingProxyType({})

    def source(self, key: str, x: Tensor) -> Source:
        """A data set's entry in the report."""
        name, source = self.sources.get(key, (key, "given as a tensor"))
        return Source(name=name, n=len(x), sha256=sha256_of_images(len(x), blocks(x)), source=source)

    def overlaps(self, judged: Mapping[str, Tensor]) -> list[Overlap]:
        """Pairs of sets that share images, one of them at least among those that detectors are judged on."""
        found = overlaps({**self.learnt, **judged})
        pairs = [(b, a, n) if a in self.learnt else (a, b, n) for a, b, n in found if {a, b} & {*judged}]
        return [Overlap(first=a, second=b, images=n) for a, b, n in pairs]
