"""The arguments of `evaluate`, read and looked at before any work is done."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from oodattack.detector import Detector, check_detector
from oodattack.evaluation.check import check_disjoint, check_images, exact_digests
from oodattack.identity import sha256_of_networks
from oodattack.threat import (
    Misfit,
    Suite,
    Sweep,
    Threat,
    ThreatModel,
    check_restarts,
    limits_of,
    members_of,
    own_name,
    read_threat,
    validated,
)


def each_read(threats: str | Path | Threat | Sequence[str | Path | Threat]) -> list[Threat]:
    """Threats, or a single one, from their names and files; ValueError for anything else."""
    kinds = (str, Path, ThreatModel, Suite, Sweep)
    several = [threats] if isinstance(threats, kinds) else threats
    if not isinstance(several, Iterable) or not all(isinstance(t, kinds) for t in several):
        raise ValueError(f"`threats` must be names, paths or threat models, got {threats!r}. Name some.")
    return [own_name(read_threat(t) if isinstance(t, str | Path) else _given(t)) for t in several]


def _given(threat: Threat) -> Threat:
    """A threat that was made or changed in Python, looked at as if it came from a file; ValueError where that fails."""
    try:
        return check_restarts(validated(threat))
    except Misfit as error:
        raise ValueError(f"threat {threat.name!r}: {error}") from None


def distinct(threats: list[Threat]) -> list[Threat]:
    """Each threat once; ValueError where two different ones share a name, which is all that a report shows of them."""
    by_name: dict[str, Threat] = {}
    for threat in threats:
        if by_name.setdefault(threat.name, threat) != threat:
            raise ValueError(f"`threats` must differ in name, got two called {threat.name!r}. Rename one of the files.")
    return list(by_name.values())


def checked(
    detectors: Mapping[str, Detector],
    threats: Sequence[Threat],
    id: Tensor,
    ood: Mapping[str, Tensor],
    targets: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """ID images to evaluate and targets: those given, or every other ID image where a threat needs some.

    Raises:
        ValueError: what `evaluate` was given does not fit together.
    """
    needs_ood = any(limits_of(t).start == "ood" for t in threats)
    for what, some in (("detector", detectors), ("threats", threats), ("ood", ood if needs_ood else [1])):
        if not some:
            raise ValueError(f"`detector`, `ood` and `threats` must name at least one each, got no {what}. Add it.")
    check_images(id, "id", like=id)
    if targets is None and any(m.needs_targets for t in threats for m in members_of(t)):
        if len(id) < 2:
            raise ValueError("`id` must hold 2 images, one of them a target, got 1. Add some, or give `targets`.")
        id, targets = id[0::2], id[1::2]
    mine = set(exact_digests(id))
    for name, x in [*([] if targets is None else [("targets", targets)]), *ood.items()]:
        check_images(x, name, like=id)
        check_disjoint(x, name, mine)
    for name, d in detectors.items():
        check_detector(d, name)
    sha256_of_networks(detectors)  # refuses two networks of one name, before any search
    return id, targets
