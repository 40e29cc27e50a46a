"""Bounds of a detector's scores over all that an attacker may do to an image."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack.bounds.ball import NORMS, Ball, Interval, rows
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.table import check_kind, prepared
from oodattack.geometry import wide
from oodattack.lookup import summary

OUTWARD = 1e-9  # share by which bounds are moved outwards: far above the rounding of float64, far below any gap
ROUNDING = 4  # times what is seen of the rounding of a detector's own precision: an attack looks for the worst of it
CORNERS = 4  # random ones at which it is seen
ROWS = 32  # images whose bounds are computed at a time


class ScoreBounds(NamedTuple):
    """What no attack can beat: lower <= score(x') <= upper for every allowed x'. Shapes (N,), float64, on the CPU.

    Attributes:
        lower: may be minus infinity.
        clean: scores of the images themselves.
        upper: may be infinite.
    """

    lower: Tensor
    clean: Tensor
    upper: Tensor


def score_bounds(
    detector: Any, x: Tensor, *, norm: str, eps: float | Tensor, box: bool = True, deep: bool = True
) -> ScoreBounds:
    """Bounds of score(x') over {x' : ||x' - x||_p <= eps} and the [0, 1] box.

    Everything is computed in float64, whatever the detector's precision, and moved outwards, by `OUTWARD` (1 + |bound|)
    and by `ROUNDING` times the largest difference that rounding makes to the detector's own scores, of `x` and of
    corners of the cube around it.

    Args:
        detector: one of the kinds in `SCORES`, in eval mode, on a network of layers with bounds.
        x: images, shape (N, C, H, W), in [0, 1].
        norm: "linf" or "l2".
        eps: radius, >= 0, input units: one number, or one a row, shape (N,).
        box: x' stays in [0, 1], as it does in every threat model.
        deep: linear bounds through the whole network (CROWN) beside intervals and Lipschitz constants, the best of
            which every row keeps. False leaves them out, which costs less and bounds next to nothing.

    Raises:
        ValueError: images out of range, an unknown norm, a negative eps, or a detector or network without bounds.
    """
    ball = ball_of(x, norm, eps, box)
    if isinstance(detector, nn.Module):
        check_kind(detector)  # before a large network is copied for nothing
    exact = in_float64(detector)
    with torch.no_grad():
        on_ball = prepared(exact, tuple(x.shape[1:]), deep=deep)
        parts = [rows(ball, slice(i, i + ROWS)) for i in range(0, len(x), ROWS)]
        clean = torch.cat([exact(part.x) for part in parts])
        moves = bool((ball.eps > 0).any())
        found = [on_ball(part) for part in parts] if moves else [Interval(clean, clean)]
    lower, upper = (torch.cat([each[i] for each in found]) for i in (0, 1))
    slack = ROUNDING * _rounding(detector, exact, x, ball)
    lower = lower - OUTWARD * (1 + lower.abs()) - slack
    upper = upper + OUTWARD * (1 + upper.abs()) + slack
    if not ((lower <= clean) & (clean <= upper)).all():  # also where a bound is NaN
        raise RuntimeError("bounds must hold the clean scores, and do not. This is a bug.")
    return ScoreBounds(lower.cpu(), clean.cpu(), upper.cpu())


def _rounding(detector: Any, exact: Any, x: Tensor, ball: Ball) -> Tensor:
    """Largest difference between a detector's own scores and its exact ones, at `x` and corners of the cube around it.

    At `x` alone it may be none: a black image meets no weight.
    """
    eps, worst = wide(ball.eps.to(x.dtype), x), ball.x.new_zeros(())
    draw = torch.Generator().manual_seed(0)
    signs = [(2 * torch.randint(2, x.shape[1:], generator=draw) - 1).to(x) for _ in range(CORNERS)]
    with torch.no_grad():
        for move in (torch.zeros_like(eps), eps, -eps, *[sign * eps for sign in signs]):
            for part in (x + move).clamp(0, 1).split(ROWS):
                worst = worst.maximum((detector(part).double() - exact(part.double())).abs().max())
    return worst


def in_float64(detector: Any) -> Any:
    """A copy to compute exactly with, all but exactly.

    Raises:
        ValueError: it is in training mode.
        NoBounds: it is no `nn.Module`, or holds something that cannot be copied.
    """
    if any(module.training for module in getattr(detector, "modules", list)()):
        raise ValueError("`detector` must be in eval mode, got it in training. Call detector.eval() first.")
    kind = type(detector).__name__
    if not isinstance(detector, nn.Module):
        raise NoBounds(f"`detector` must be an nn.Module to have bounds, got a {kind}. Take one of ours.")
    try:
        return copy.deepcopy(detector).double()
    except Exception as error:  # whatever somebody's network holds
        raise NoBounds(
            f"`detector` must be one that can be copied, got {kind}: {summary(error)}. Take one of ours."
        ) from error


def ball_of(x: Tensor, norm: str, eps: float | Tensor, box: bool) -> Ball:
    """The ball of what was asked for.

    Raises:
        ValueError: images out of range, an unknown norm or a radius that is none.
    """
    if norm not in NORMS:
        raise ValueError(f"`norm` must be one of {', '.join(NORMS)}, got {norm!r}. Other norms have no bounds.")
    check_images(x)
    radii = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    if radii.shape not in (torch.Size([]), x.shape[:1]) or not ((radii >= 0) & radii.isfinite()).all():
        raise ValueError(f"`eps` must be finite and >= 0, one or {len(x)} of them, got {eps}. Correct it.")
    low, high = (0.0, 1.0) if box else (-torch.inf, torch.inf)
    return Ball(x.detach().double(), radii.expand(len(x)), norm, low, high)


def check_images(x: Tensor) -> None:
    """Raise ValueError unless x is a batch of images in [0, 1]."""
    if not len(x) or not x.is_floating_point():
        got = f"{len(x)} of type {x.dtype}"
    elif not ((x >= 0) & (x <= 1)).all():
        got = f"[{x.min():.3g}, {x.max():.3g}]"
    else:
        return
    raise ValueError(f"`x` must be images in [0, 1], got {got}. Move mean/std inside the detector.")
