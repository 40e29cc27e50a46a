"""The certified side of one cell: a detector, its ID and OOD inputs, and what an attacker may do to them."""

from typing import Any, Literal, NamedTuple

from torch import Tensor

from oodattack.bounds.ball import NORMS
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.sandwich import Guarantee, guarantee
from oodattack.bounds.score_bounds import ScoreBounds, score_bounds

Sides = Literal["hide", "raise", "both"]
SIDES: tuple[Sides, ...] = ("hide", "raise", "both")


class Certified(NamedTuple):
    """What no attack can beat.

    Attributes:
        guarantee: AUROC and FPRs.
        id: bounds of the ID scores.
        ood: bounds of the OOD scores.
    """

    guarantee: Guarantee
    id: ScoreBounds
    ood: ScoreBounds


class Uncertified(NamedTuple):
    """There are no bounds, and why."""

    reason: str


def certify(
    detector: Any, x_id: Tensor, x_ood: Tensor, *, norm: str, eps: float, sides: Sides, deep: bool = True
) -> Certified | Uncertified:
    """Bounds of both sides and what follows for AUROC, or the reason why there are none.

    The side that is not attacked has bounds of radius 0: its own scores, up to rounding.

    Args:
        detector: any; those without bounds are `Uncertified`.
        x_id: ID images, shape (N, C, H, W), in [0, 1].
        x_ood: OOD images, shape (M, C, H, W), in [0, 1].
        norm: of the threat model; other norms than "linf" and "l2" are `Uncertified`.
        eps: its radius, >= 0.
        sides: which are attacked: "hide" lowers OOD scores, "raise" lifts ID scores, "both" does each.
        deep: as in `score_bounds`.

    Raises:
        ValueError: images out of range, or an eps or `sides` that is none.
    """
    if sides not in SIDES:
        raise ValueError(f"`sides` must be one of {', '.join(SIDES)}, got {sides!r}. Name who is attacked.")
    if norm not in NORMS:
        return Uncertified(f"no bounds for the norm {norm}")
    radii = (0.0 if sides == "hide" else eps, 0.0 if sides == "raise" else eps)
    try:
        of_id, of_ood = (
            score_bounds(detector, x, norm=norm, eps=own, deep=deep)
            for x, own in zip((x_id, x_ood), radii, strict=True)
        )
    except NoBounds as reason:
        return Uncertified(str(reason))
    return Certified(guarantee(of_id, of_ood), of_id, of_ood)
