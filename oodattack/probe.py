"""Whether the gradient of a score can be trusted: is there one, finite, not zero, and of that score?

The signs of a masked gradient are those of Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of
Security", ICML 2018, arXiv:1802.00420: shattered, stochastic or vanishing. The test is a comparison with central
differences at steps that matter to an attack, not at the smallest that float32 can tell from rounding.
"""

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.detector import Score
from oodattack.geometry import row_random
from oodattack.metrics import same_scores

ROWS = 16  # enough to tell a coin (half of the rows uphill) from a gradient, few enough to cost nothing
STEPS = (1 / 2040, 1 / 510, 2 / 255)  # change of a pixel, from an eighth of a grey level to two
DIRECTIONS = 2  # random ones, at each step
FACTOR = 2.0  # a kink or curvature may halve or double the slope over a step
AGREEING = 0.75  # of rows: with 16 of them, a coin gets there in 4 of 100 cases
ACROSS = 0.5  # kinks and sign steps inside a score leave > 0.7; a gradient without 2/3 of its squared length has 0.5
ZERO = 0.1  # share of rows, as for the gradients of a search
MISSING = 0.5  # share of rows on which a gradient may be zero or not finite and still lead the others


class Probe(NamedTuple):
    """What a score and its gradient did on a few rows. None: could not be judged.

    Attributes:
        rows: number of rows looked at.
        exists: autograd returned a gradient.
        non_finite: share of rows with a NaN or infinite entry in it.
        zero: share of rows on which all of it was exactly zero.
        flat: share of rows whose score no step changed at all.
        along: share of rows on which the slope along the gradient is its length, within a factor of 2 at some step.
        uphill: share of rows that score higher 2/255 along the gradient than 2/255 against it.
        across: in [-1, 1], likeness of predicted and measured changes in random directions, mean over rows; 1: equal.
        denied: ||r||_2, median over rows, where r is the part of the slope that measured changes show and the gradient
            does not: for random signs s, E <r, s>^2 = ||r||_2^2. At the step at which that is least.
        repeatable: with and without autograd, two calls gave the same scores.
        row_independent: so did a call with half of the rows.
    """

    rows: int
    exists: bool
    non_finite: float = 0.0
    zero: float = 0.0
    flat: float = 0.0
    along: float | None = None
    uphill: float | None = None
    across: float | None = None
    denied: float | None = None
    repeatable: bool = True
    row_independent: bool = True


def probe(f: Score, x: Tensor, *, seed: int) -> Probe:
    """Compare the gradient of a score with central differences f(x + d) - f(x - d), for d along it and of random signs.

    Costs one backward and at most 21 forward passes over at most 16 rows. The rows are drawn 2/255 towards grey, so
    that no step leaves the box. A surrogate that passes the gradient of another function straight through is untruthful
    by construction: probe the score itself, and only where nothing else is declared for the attack.

    Args:
        f: (B, C, H, W) -> (B,). Any callable; it need not be differentiable.
        x: images, shape (N, C, H, W), N >= 1, values in [0, 1]; evenly spaced rows are taken.
        seed: of the random directions.

    Returns:
        The findings; `trouble` puts them into words.

    Raises:
        ValueError: `x` is empty or leaves [0, 1], or `f` does not return one score a row.
    """
    if not len(x) or not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"`x` must be images in [0, 1], got {len(x)} rows. Move mean/std inside the detector.")
    picked = evenly(len(x), ROWS).to(x.device)
    points = STEPS[-1] + (1 - 2 * STEPS[-1]) * x[picked].detach()
    value = plain_scores(f, points)
    half = plain_scores(f, points[: (len(points) + 1) // 2])
    steady = Probe(len(points), False, row_independent=same_scores(half, value[: len(half)], value))
    grad, with_grad = gradient(f, points)
    if grad is None or with_grad is None:
        return steady._replace(repeatable=same_scores(plain_scores(f, points), value, value))
    steady = steady._replace(exists=True, repeatable=same_scores(with_grad, value, value))
    return _compare(f, points, grad.double(), seed, steady)


def trouble(found: Probe) -> str | None:
    """What is wrong with a gradient, in words; None if nothing was found."""
    if not found.exists:
        return "no gradient"
    if found.non_finite > 0:
        return f"gradient not finite on {found.non_finite:.0%} of rows"
    if found.zero > ZERO:
        return f"gradient zero on {found.zero:.0%} of rows"
    if found.flat > ZERO:
        return f"score flat on {found.flat:.0%} of rows, whatever its gradient says"
    if not (found.repeatable and found.row_independent):
        return "gradient cannot be checked: the score depends on more than its row"
    if found.uphill is not None and found.uphill < AGREEING:
        return f"gradient disagrees with finite differences: it leads uphill on {found.uphill:.0%} of rows only"
    if found.along is not None and found.along < AGREEING:
        return f"gradient disagrees with finite differences: its length is right on {found.along:.0%} of rows only"
    if found.across is not None and found.across < ACROSS:
        return f"gradient disagrees with finite differences: likeness {found.across:.2f} in random directions"
    return None


def proven(found: Probe) -> bool:
    """Whether a gradient is that of its score on the rows that have one, which must be half of them at least."""
    if not found.exists or found.along is None or found.zero + found.non_finite > MISSING:
        return False
    return trouble(found._replace(zero=0.0, non_finite=0.0)) is None


def plain_scores(f: Score, x: Tensor) -> Tensor:
    """Scores of a copy of `x` in float64, without autograd, as a detector is used."""
    with torch.no_grad():
        value = f(x.clone())
    if value.shape != x.shape[:1]:
        raise ValueError(f"`f` must return one score a row, shape ({len(x)},), got {tuple(value.shape)}. Flatten it.")
    return value.double()


def gradient(f: Score, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradient of the sum of scores and the scores, or None where autograd finds no way."""
    leaf = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = f(leaf)
            (grad,) = torch.autograd.grad(value.sum(), leaf)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # says nothing of the gradient
    except Exception:  # whatever user code does that autograd cannot follow, such as x.numpy(), or ignores
        return None, None
    return grad, value.detach().double()


def _compare(f: Score, x: Tensor, grad: Tensor, seed: int, found: Probe) -> Probe:
    """Fill in what differences say of a gradient of shape (B, C, H, W)."""
    length = torch.linalg.vector_norm(grad.flatten(1), float("inf"), dim=1)
    finite, zero = length.isfinite(), length == 0
    unit = (grad / length.clamp(min=1e-300).view(-1, 1, 1, 1)).nan_to_num(0.0, 0.0, 0.0)
    along = [_slopes(f, x, grad, step * unit) for step in STEPS]
    random = row_random(seed, "probe", range(len(x)), x.device, torch.float64)
    signs = [2.0 * random.integers(2, x.shape[1:]) - 1 for _ in range(DIRECTIONS)]
    across = [[_slopes(f, x, grad, step * sign) for sign in signs] for step in STEPS]
    moved = torch.stack([measured != 0 for measured, _ in chain(along, *across)]).any(dim=0)
    found = found._replace(non_finite=_share(~finite), zero=_share(zero), flat=_share(~moved & finite & ~zero))
    judged = finite & ~zero & moved
    if not judged.any():
        return found
    agree = torch.stack([_alike(measured, expected) for measured, expected in along]).any(dim=0)
    likeness = [_likeness(changes)[judged].mean().item() for changes in across]
    lacking = [_lacking(changes, 2 * step)[judged].median().item() for step, changes in zip(STEPS, across, strict=True)]
    return found._replace(
        along=_share(agree[judged]),
        uphill=_share(along[-1][0][judged] > 0),
        across=max(likeness),
        denied=min(lacking),
    )


def _slopes(f: Score, x: Tensor, grad: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """f(x + delta) - f(x - delta) as measured and as the gradient has it, each of shape (B,)."""
    ahead, behind = ((x + way * delta.to(x.dtype)).clamp(0, 1) for way in (1, -1))
    expected = (grad * (ahead.double() - behind.double())).flatten(1).sum(1)
    return plain_scores(f, ahead) - plain_scores(f, behind), expected


def _alike(measured: Tensor, expected: Tensor) -> Tensor:
    ratio = measured / expected
    return (ratio >= 1 / FACTOR) & (ratio <= FACTOR)


def _likeness(changes: list[tuple[Tensor, Tensor]]) -> Tensor:
    """2 <p, q> / (|p|^2 + |q|^2) of each row's predicted and measured changes; 0 if both are 0 or one is not finite."""
    measured, expected = torch.stack([m for m, _ in changes]), torch.stack([e for _, e in changes])
    size = measured.square().sum(0) + expected.square().sum(0)
    return (2 * (measured * expected).sum(0) / size.clamp(min=1e-300)).nan_to_num(0.0, 0.0, 0.0)


def _lacking(changes: list[tuple[Tensor, Tensor]], length: float) -> Tensor:
    """Root mean square, over directions, of the slope of each row that was measured and not predicted."""
    return torch.stack([((m - e) / length).square() for m, e in changes]).mean(0).sqrt().nan_to_num(nan=0.0)


def _share(rows: Tensor) -> float:
    return rows.double().mean().item()
