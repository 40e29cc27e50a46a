"""Scoring: what the untouched detector says of any images."""

from collections.abc import Mapping

import torch
from torch import Tensor

from oodattack.adapters.http_wire import ScorerError
from oodattack.detector import Detector
from oodattack.evaluation.batch import Batch, by_rows
from oodattack.faults import fault, out_of_memory, own_words


def score(
    detector: Detector,
    name: str,
    x: Tensor,
    *,
    batch: Batch,
    what: str,
    rounded: bool = False,
    finite: bool = True,
) -> Tensor:
    """The untouched detector's scores of all rows, or of all rows rounded to 8 bits, on the CPU.

    Raises:
        ValueError: the detector fails, changes its input, or returns anything but one score a row on the device of its
            images, which must be `finite` unless the caller sorts out those that are not; or one image alone does not
            fit in memory.
    """

    def work(rows: slice) -> Tensor:
        block = (x[rows] * 255).round() / 255 if rounded else x[rows]
        given = block.clone()  # nobody's images but the detector's
        part = _said(detector, name, given)
        if not isinstance(part, Tensor) or part.shape != block.shape[:1]:
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"detector {name!r} must return one score a row, shape ({len(block)},), got {got}. {_scores_of(part)}"
            )
        if part.device != block.device:
            raise ValueError(
                f"detector {name!r} must return scores where its images are, on {block.device}, got {part.device}. "
                "End with `.to(x.device)`."
            )
        if not torch.equal(given, block):
            raise ValueError(f"detector {name!r} must leave its images alone, got changes in place. Work on a copy.")
        return part.detach()

    with torch.no_grad():
        scores = by_rows(len(x), batch, work).cpu()
    scores = scores if scores.is_floating_point() else scores.float()
    if finite and not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise ValueError(
            f"detector {name!r} must return finite scores, got {bad} NaN or infinite on {what!r}. Correct the detector."
        )
    return scores


def _said(detector: Detector, name: str, given: Tensor) -> object:
    """What a detector returns for images; a ValueError in one line where it fails."""
    try:
        return detector(given)
    except ScorerError:
        raise  # says itself what to do
    except (Exception, SystemExit) as error:  # whatever a user's detector does
        if out_of_memory(error):
            raise  # the block is done again in halves
        if said := own_words(error):
            raise ValueError(f"detector {name!r}: {said}") from error
        shape = tuple(given.shape[1:])
        remedy = "Correct detector or images."
        if shape[-1] in (1, 3) and shape[0] not in (1, 3):
            remedy = "They look channels-last: give it x.permute(0, 3, 1, 2)."
        raise ValueError(f"detector {name!r} must score images {shape}, got {fault(error)}. {remedy}") from error


def _scores_of(part: object) -> str:
    """What to do with something that is no vector of scores."""
    if isinstance(part, Tensor) and part.ndim == 2 and part.shape[1] > 1:
        return "If these are logits, score them, as detectors.Energy(Classifier(network)) does."
    if isinstance(part, Tensor):
        return "Return a flat tensor."
    if isinstance(getattr(part, "logits", None), Tensor):
        return "Score its `.logits`, as detectors.Energy(Classifier(network)) does."
    if isinstance(part, (tuple, list)) and any(isinstance(entry, Tensor) for entry in part):
        return "Return the one entry that is the score."
    if isinstance(part, Mapping):
        return "Return the one value that is the score."
    return "Return a flat tensor, torch.as_tensor(scores)."
