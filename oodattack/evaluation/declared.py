"""What a detector declares beside its score, looked over before a search follows it."""

import torch
from torch import Tensor

from oodattack.aims import real
from oodattack.detector import Detector, Latent, Surrogate
from oodattack.faults import fault, out_of_memory
from oodattack.keep_graph import reaches


def sound_surrogate(detector: Detector, x: Tensor) -> Surrogate | None:
    """The surrogate that a detector declares; None where it has none, or none that works on its network.

    Raises:
        ValueError: it gives no finite score for each image of `x`, shape (2, C, H, W).
    """
    own: Surrogate | None = getattr(detector, "surrogate", None)
    if own is None:
        return None
    rule = "`surrogate` must have a `score` of images that gives a tensor of finite numbers, shape (rows,)"
    score = getattr(own, "score", None)
    found = _value(score, rule, x, unfit=ValueError)  # such as of a network whose non-linearities it does not know
    if found is None:
        return None
    if found.shape != x.shape[:1]:
        raise ValueError(f"{rule}, got shape {tuple(found.shape)} for {len(x)} images. Return a flat tensor.")
    _finite(found, rule)
    return own


def check_latent(own: object, x: Tensor) -> None:
    """Raise ValueError unless a declared `latent` gives finite numbers for each image of `x`, shape (2, C, H, W)."""
    rule = "`latent` must be a function of images that gives a tensor of finite numbers, a row an image"
    try:
        hash(own)
    except TypeError:
        raise ValueError(f"{rule}, got {type(own).__name__}, which has no hash. Make it a method.") from None
    found = _value(own, rule, x)
    assert found is not None
    if not found.ndim or len(found) != len(x):
        raise ValueError(f"{rule}, got shape {tuple(found.shape)} for {len(x)} images. Give each image a row.")
    _finite(found, rule)


def sound_class_scores(detector: Detector, x: Tensor) -> Latent | None:
    """The detector's own scores of classes; None where it has none of use.

    Without a gradient they are of no use: the network's logits are followed then, if there is a network.

    Raises:
        ValueError: they are not a number for each image of `x`, shape (2, C, H, W), and class.
    """
    own: Latent | None = getattr(detector, "class_scores", None)
    if own is None:
        return None
    rule = "`class_scores` must be a function of images that gives a tensor of floats, shape (rows, classes)"
    found = _value(own, rule, x)
    assert found is not None
    if not found.is_floating_point():
        raise ValueError(f"{rule}, got {found.dtype}. Change it.")
    if found.ndim != 2 or len(found) != len(x) or not found.shape[1]:
        raise ValueError(f"{rule}, got shape {tuple(found.shape)} for {len(x)} images. Give each image a row.")
    return own if reaches(own, x[:1]) else None


def _value(f: object, rule: str, x: Tensor, *, unfit: type[Exception] | None = None) -> Tensor | None:
    """f(x), or None where it says by an error of that kind that it does not suit; else a ValueError with the rule."""
    if not callable(f):
        raise ValueError(f"{rule}, got {type(f).__name__}. Drop it, or make it a method.")
    try:
        with torch.no_grad():
            found = f(x.clone())  # nobody's images but its own
    except Exception as error:  # whatever a user's code does
        if unfit and isinstance(error, unfit):
            return None
        if out_of_memory(error):
            raise
        raise ValueError(f"{rule}, got {fault(error)}. Correct it.") from error
    if not isinstance(found, Tensor):
        raise ValueError(f"{rule}, got {type(found).__name__}. Change it.")
    return found


def _finite(found: Tensor, rule: str) -> None:
    if not real(found).isfinite().all():
        raise ValueError(f"{rule}, got NaN or infinite ones on ID images. Correct it.")
