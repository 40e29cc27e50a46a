"""The images themselves: what an evaluation scores, for whoever wants to do something else with it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from oodattack.detector import Detector
from oodattack.evaluation import evaluate
from oodattack.evaluation.check import check_images, checked_seed
from oodattack.evaluation.images import ImageSet, device_of, in_memory
from oodattack.evaluation.keeper import Attacked, Keeper
from oodattack.evaluation.setup import Precision, Progress
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, limits_of, read_threat


class ImageKeeper(Keeper):
    """Keeps the images of the one attacked side that there is."""

    def __init__(self) -> None:
        self.images: Tensor | None = None

    def kept(self, x_adv: Tensor) -> Tensor:
        """All of them."""
        return x_adv.cpu()

    def cell(self, attacked: Attacked) -> None:
        """Keep what came out for the whole threat: of a suite each row at its worst."""
        self.images = attacked.side.images


def adversarial_images(
    detector: Detector,
    x: ImageSet,
    *,
    threat: str | Path | Threat,
    id: ImageSet,
    seed: int,
    name: str = "ood",
    targets: ImageSet | None = None,
    batch_size: int | None = None,
    precision: Precision = "full",
    progress: Progress | None = None,
) -> Tensor:
    """OOD images that look ID to a detector: those that `evaluate` scores within one threat model.

    Args:
        detector: one detector, images (B, C, H, W) in [0, 1] -> scores (B,), higher means more OOD.
        x: OOD images, shape (N, C, H, W), in [0, 1]; or a loader of them, see `evaluate`.
        threat: a threat model or a suite that moves OOD images alone, and begins at them: name, TOML file or object.
        id: ID images, shape (M, C, H, W), in [0, 1], or a loader of them, whose scores are to be reached: a row that
            has passed all of them is finished.
        seed: fixes all randomness of the search.
        name: of the set `x`, as in `evaluate(ood={name: x})`; random numbers depend on it.
        targets: see `evaluate`.
        batch_size: see `evaluate`.
        precision: see `evaluate`.
        progress: see `evaluate`.

    Returns:
        Shape, type and device of `x` (of a loader, on the device of the detector), values in [0, 1], row i within the
        threat model around `x[i]` (of one with `after`, around what that returned), whether it fools the detector or
        not.

    Raises:
        ValueError: a sweep, or a threat that moves ID images or begins elsewhere than at `x`; several detectors; a
            threat that does not apply to the detector; and as `evaluate`.
    """
    if isinstance(detector, Mapping):
        raise ValueError(f"`detector` must be one, got {len(detector)} by name. Call it for each.")
    asked = read_threat(threat) if isinstance(threat, str | Path) else threat
    if isinstance(asked, Sweep):
        raise ValueError(f"`threat` must have one radius, got the sweep {asked.name!r}. Take one of its `members`.")
    if not isinstance(asked, ThreatModel | Suite):
        raise ValueError(f"`threat` must be a name, a path or a threat model, got {asked!r}. Name one.")
    limits = limits_of(asked)
    if limits.attacks_id:
        raise ValueError(
            f"`threat` must move OOD images alone, got aim {limits.aim!r} in {asked.name!r}. Take one that hides."
        )
    if limits.start != "ood":
        raise ValueError(
            f'`threat` must start from `x`, got start {limits.start!r} in {asked.name!r}. Take one with start = "ood".'
        )
    seed, device = checked_seed(seed), device_of({"detector": detector})
    id, x = in_memory(id, "id", device=device, seed=seed), in_memory(x, "x", device=device, seed=seed)
    check_images(id, "id", like=id)
    check_images(x, "x", like=id)
    keeper = ImageKeeper()
    evaluate(
        detector,
        id=id,
        ood={name: x},
        threats=asked,
        seed=seed,
        targets=targets,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
        keeper=keeper,
    )
    assert keeper.images is not None
    return torch.empty_like(x).copy_(keeper.images)
