"""Do two reports measure the same thing? Weights, batch size and device may differ; what is asked of them may not."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from oodattack.gate.baseline import Area, Baseline
from oodattack.report.record import Source


class Field(NamedTuple):
    """A field of the spec: its name and both values in words."""

    name: str
    old: str
    new: str


def check_spec(new: Baseline, old: Baseline) -> None:
    """Raise ValueError if something that the baseline measured is not in the report, or was measured otherwise.

    What the baseline does not have may be there: other detectors, threats and OOD sets.
    """
    for field in fields(new, old):
        if field.old != field.new:
            raise ValueError(
                f"`{field.name}` must be as in the baseline, {short(field.old)}, got {short(field.new)}. "
                "Run with the same options, or make a new baseline: --update, in pytest --oodattack-update."
            )


def fields(new: Baseline, old: Baseline) -> Iterator[Field]:
    """Everything that must agree, in order."""
    yield Field("spec.seed", str(old.seed), str(new.seed))
    yield Field("spec.precision", old.precision, new.precision)
    yield Field("spec.id", source(old.id), source(new.id))
    if old.targets is not None:
        yield Field("spec.targets", source(old.targets), source(new.targets))
    sets = {s.name: s for s in new.ood}
    for was in old.ood:
        yield Field(f"spec.ood.{was.name}", source(was), source(sets.get(was.name)))
    begun = {s.name: s for s in new.starts}
    for was in old.starts:
        yield Field(f"spec.starts.{was.name}", source(was), source(begun.get(was.name)))
    for name, digest in old.threats.items():
        yield Field(f"spec.threats.{name}", digest, new.threats.get(name, "none of that name"))
    for name in old.detectors:
        yield Field(f"spec.detectors.{name}", name, name if name in new.detectors else "none of that name")
    cells = {c.key: c for c in new.cells}
    for cell in old.cells:
        here, name = cells.get(cell.key), cell.where
        missing = f"none: {new.skipped[name]}" if name in new.skipped else "none"
        yield Field(f"results: {name}", "a result", missing if here is None else "a result")
        if here is not None:
            yield Field(f"results: {name}: clean", sizes(cell.clean), sizes(here.clean))
            yield Field(f"results: {name}: attacked", sizes(cell.attacked), sizes(here.attacked))


def short(text: str) -> str:
    """With the beginning of a hash in place of all of it."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)


def sizes(area: Area) -> str:
    """How many images are behind an AUROC."""
    return f"{area.n_id} ID and {area.n_ood} OOD images"


def source(found: Source | None) -> str:
    """A set of images in words; it is the same one if its hash is."""
    return "none" if found is None else f"{found.n} images {found.sha256}"
