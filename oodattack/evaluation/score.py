"""Scoring: what the untouched detector says, of any images and of those that a search returned."""

import torch
from torch import Tensor

from oodattack.aims import in_batches, mape, rows_of
from oodattack.attack import Found
from oodattack.detector import Detector
from oodattack.evaluation.cell import Side, show_rows
from oodattack.evaluation.plan import measured
from oodattack.lookup import summary
from oodattack.threat import ThreatModel


def score(detector: Detector, name: str, x: Tensor, *, batch_size: int, what: str) -> Tensor:
    """The untouched detector's scores of all rows, on the CPU.

    Raises:
        ValueError: the detector fails, changes its input, or returns anything but one finite score a row.
    """
    first = x[:batch_size].clone()
    try:
        with torch.no_grad():
            parts = [detector(rows) for rows in x.split(batch_size)]
    except Exception as error:  # whatever a user's detector does
        shape = tuple(x.shape[1:])
        raise ValueError(
            f"detector {name!r} must score images {shape}, got {summary(error)}. Correct detector or images."
        ) from error
    for part, rows in zip(parts, x.split(batch_size), strict=True):
        if not isinstance(part, Tensor) or part.shape != rows.shape[:1]:
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"detector {name!r} must return one score a row, shape ({len(rows)},), got {got}. Return a flat tensor."
            )
    if not torch.equal(first, x[:batch_size]):
        raise ValueError(f"detector {name!r} must leave its images alone, got changes in place. Work on a copy.")
    scores = torch.cat(parts).detach().cpu()
    scores = scores if scores.is_floating_point() else scores.float()
    if not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise ValueError(
            f"detector {name!r} must return finite scores, got {bad} NaN or infinite on {what!r}. Correct the detector."
        )
    return scores


def side_of(
    detector: Detector,
    name: str,
    limits: ThreatModel,
    x: Tensor,
    found: Found,
    *,
    clean: Tensor,
    target: Tensor | None,
    sign: int,
    batch_size: int,
) -> Side:
    """One detector's own view of the returned images; a clean image that is worse for it counts as returned.

    Args:
        detector: the untouched detector.
        name: what errors call it.
        limits: the threat model that the images obey.
        x: images before the search, shape (N, C, H, W).
        found: what the search returned for them.
        clean: the detector's scores of `x`, shape (N,).
        target: ID image that each row was to match, or None.
        sign: 1 where a higher score is worse (ID rows), -1 where a lower one is (OOD rows).
        batch_size: images per forward pass.
    """
    x_adv, clean_best = found.x_adv, found.clean_best
    scores = score(detector, name, x_adv, batch_size=batch_size, what=f"{limits.name} images")
    if limits.aim in ("hide", "raise", "both") and limits.iterate == "best":
        undo = sign * clean > sign * scores
        clean_best = clean_best | undo.to(clean_best.device)
        scores = clean.where(undo, scores)
        x_adv = x.where(undo.to(x.device).view(-1, 1, 1, 1), x_adv)
    own = None
    if target is not None:
        f = measured(detector, limits)
        z_in, z_out = (rows_of(in_batches(f, images, batch_size)) for images in (target, x_adv))
        own = mape(z_in, z_out).cpu()
    rounded = (x_adv * 255).round() / 255
    return Side(
        scores=scores,
        scores_8bit=score(detector, name, rounded, batch_size=batch_size, what=f"{limits.name} images in 8 bits"),
        distance=limits.distance(x_adv, x).cpu(),
        queries=found.queries.cpu(),
        gradients=found.gradients.cpu(),
        zero_gradients=found.zero_gradients.cpu(),
        non_finite=found.non_finite.cpu(),
        clean_best=clean_best.cpu(),
        mape=own,
        shown=x_adv[show_rows(len(x_adv)).to(x.device)].cpu(),
    )
