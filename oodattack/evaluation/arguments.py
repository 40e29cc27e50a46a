"""The arguments of `evaluate`, read and looked at before any work is done."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from oodattack.adapters import adapted
from oodattack.detector import Detector, check_detector
from oodattack.evaluation.check import check_disjoint, check_images, check_named, exact_digests
from oodattack.evaluation.plan import is_blind
from oodattack.evaluation.setup import Precision
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


def by_name(detector: Detector | Mapping[str, Detector]) -> dict[str, Detector]:
    """Detectors by name, those of other libraries adapted; one that comes alone is given a name."""
    named = detector if isinstance(detector, Mapping) else {_name(detector): detector}
    check_named("detector", "detectors", named)
    return {name: adapted(d) for name, d in named.items()}


def _name(detector: Detector) -> str:
    """A built-in detector's own name; for others, that of their class or function with hyphens."""
    if isinstance(own := getattr(detector, "name", None), str):
        return own
    kind = getattr(detector, "__name__", type(detector).__name__)
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", kind)
    return "-".join(word.lower() for word in words) or "detector"


def checked_precision(precision: Precision) -> Precision:
    """The precision untouched; ValueError for an unknown one."""
    if precision not in get_args(Precision):
        raise ValueError(
            f"`precision` must be one of {', '.join(get_args(Precision))}, got {precision!r}. Pick one of them."
        )
    return precision


def each_read(threats: str | Path | Threat | Sequence[str | Path | Threat]) -> list[Threat]:
    """Threats, or a single one, from their names and files; ValueError for anything else."""
    kinds = (str, Path, ThreatModel, Suite, Sweep)
    several = [threats] if isinstance(threats, kinds) else threats
    if not isinstance(several, Iterable) or not all(isinstance(t, kinds) for t in several):
        raise ValueError(f"`threats` must be names, paths or threat models, got {threats!r}. Name some.")
    return [own_name(read_threat(t) if isinstance(t, str | Path) else _given(t)) for t in several]


def check_differentiable(threats: Sequence[Threat]) -> None:
    """Raise ValueError if a threat needs gradients where PyTorch computes none."""
    if torch.is_inference_mode_enabled() and not all(is_blind(m) for t in threats for m in members_of(t)):
        raise ValueError("`evaluate` must be able to differentiate, got torch.inference_mode(). Call it outside.")


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
    """ID images to evaluate and targets, after a look at all that `evaluate` was given.

    Raises:
        ValueError: what `evaluate` was given does not fit together.
    """
    needs_ood = any(limits_of(t).start == "ood" for t in threats)
    for what, some in (("detector", detectors), ("threats", threats), ("ood", ood if needs_ood else [1])):
        if not some:
            raise ValueError(f"`detector`, `ood` and `threats` must name at least one each, got no {what}. Add it.")
    check_images(id, "id", like=id)
    if targets is None and any(m.needs_targets for t in threats for m in members_of(t)):
        id, targets = split(id)
    mine = set(exact_digests(id))
    for name, x in [*([] if targets is None else [("targets", targets)]), *ood.items()]:
        check_images(x, name, like=id)
        check_disjoint(x, name, mine)
    for name, d in detectors.items():
        check_detector(d, name)
    sha256_of_networks(detectors)  # refuses two networks of one name, before any search
    return id, targets


def split(id: Tensor) -> tuple[Tensor, Tensor]:
    """Every other ID image to evaluate, and the ones between as targets."""
    if len(id) < 2:
        raise ValueError("`id` must hold 2 images, one of them a target, got 1. Add some, or give `targets`.")
    return id[0::2], id[1::2]
