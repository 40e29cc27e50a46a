"""Whether the gradient of a score explains how it differs between two sets of images.

What `probe` says of a gradient at a point is not enough: on two plateaus that a step lies between it may be right at
every image, and tell nothing of what tells the sets apart.
"""

import torch
from torch import Tensor

from oodattack.detector import Score
from oodattack.geometry import steepest_l2, wide
from oodattack.probe import gradient, values

PAIRS = 48  # an eighth of rows, which is what a verdict turns on, are three of them or more in 19 of 20 cases
SEGMENTS = (8, 32, 128, 512)  # of the line between two images; finer ones where coarser ones do not settle it
REFINED = 8  # pairs that are looked at again, of those that are not settled
EXPLAINED = 10.0  # honest scores: up to 2.4 where they do not saturate; plateaus with a slope of their own: 68 and more
WALK = 24  # steps along the gradient from one image, over the length of the line to the other
ROUGH = 0.5  # of a score's range: smooth scores leave at most 0.1 at the finest rule, steps between plateaus 0.6
MISSING = 0.5  # share of pairs of which nothing can be said


def pairs(a: Tensor, b: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """As many pairs of images of two sets as the larger one has, at most 48, drawn at random; both (P, C, H, W).

    Sets may be sorted, so evenly spaced rows will not do. Images of the smaller set occur more than once.
    """
    count = min(max(len(a), len(b)), PAIRS)
    chance = torch.Generator().manual_seed(seed)
    some = []
    for x in (a, b):
        order = torch.randperm(len(x), generator=chance)[torch.arange(count) % len(x)]
        some.append(x[order.to(x.device)].detach())
    return some[0], some[1]


def misled_share(f: Score, a: Tensor, b: Tensor, *, at_once: int = PAIRS) -> float | None:
    """Share of pairs that a score tells apart where no search that follows its gradient looks.

    |f(a) - f(b)| > 10 ||a - b||_2 max(||grad f(a)||_2, ||grad f(b)||_2): by the mean value theorem the gradient is more
    than ten times as long somewhere on the way, such as at a step between two plateaus that are not quite flat. Or the
    score saturates, and its gradient is short, but leads there. So of each such pair a walk along the gradient begins
    at either image, with steps that fall from an eighth of ||a - b||_2 to a seventh of that, within ||a - b||_2 and the
    box. The pair counts unless both come half of the way, to (f(a) + f(b)) / 2. Of saturated honest scores all do.

    Args:
        f: (B, C, H, W) -> (B,).
        a: images, shape (P, C, H, W), see `pairs`.
        b: an image of the other set for each.
        at_once: pairs computed at a time.

    Returns:
        The share, in [0, 1]; at most 8 pairs are walked between, and speak for the others. None where there is no
        gradient, or one that is zero or not finite on half of the pairs: `trouble` tells of these.
    """
    ratio = torch.cat([_ratio(f, *some) for some in zip(a.split(at_once), b.split(at_once), strict=True)])
    known = int(ratio.isfinite().sum())
    if known <= MISSING * len(a):
        return None
    steep = (ratio.isfinite() & (ratio > EXPLAINED)).nonzero().flatten()
    if not len(steep):
        return 0.0
    some = steep[:REFINED]  # pairs come in random order
    lost = [~(_arrives(f, a[rows], b[rows]) & _arrives(f, b[rows], a[rows])) for rows in some.split(at_once)]
    return torch.cat(lost).double().mean().item() * len(steep) / known


def unexplained_share(f: Score, a: Tensor, b: Tensor, *, at_once: int = PAIRS) -> float | None:
    """Share of pairs between which a score runs otherwise than its gradient says.

    On the line from a to b, x_k = a + (b - a) k / n, the integral of the gradient by the midpoint rule tells

        f(a) + sum_{j < k} <grad f(x_{j + 1/2}), x_{j+1} - x_j>

    of f(x_k). By the fundamental theorem of calculus that is right but for the rule. Where it is wrong at some k by
    more than 0.5 of the score's range on the line, by the finest rule, the score jumps, as between two plateaus, or its
    gradient is that of another function: its slope, however long, leads elsewhere. The whole line counts, so that jumps
    do not make up for one another, and pairs are counted, so that some images do not vouch for others. A rule fine
    enough for honest scores resolves steep but finite slopes too: of these `misled_share` tells where the plateaus are
    flat.

    Args:
        f: (B, C, H, W) -> (B,).
        a: images, shape (P, C, H, W), see `pairs`.
        b: an image of the other set for each.
        at_once: pairs computed at a time.

    Returns:
        The share, in [0, 1]; of pairs that the coarsest rule leaves open at most 8 are looked at again, and speak for
        the others. None where there is no gradient, one that is not finite on half of the pairs, or no difference in
        half of them.
    """

    def left(which: Tensor, segments: int) -> Tensor:
        return torch.cat([_unexplained(f, a[some], b[some], segments) for some in which.split(at_once)])

    first = left(torch.arange(len(a), device=a.device), SEGMENTS[0])
    known = int(first.isfinite().sum())
    if known <= MISSING * len(a):
        return None
    rough = (first > ROUGH).nonzero().flatten()
    some = rough[:REFINED]  # pairs come in random order
    for segments in SEGMENTS[1:]:
        if len(some):
            some = some[~(left(some, segments) <= ROUGH)]  # NaN settles nothing
    return len(some) / max(min(len(rough), REFINED), 1) * len(rough) / known


def _ratio(f: Score, a: Tensor, b: Tensor) -> Tensor:
    """Of each pair, shape (P,); NaN without a gradient."""
    lengths = []
    for x in (a, b):
        slope, _ = gradient(f, x)
        if slope is None:
            return torch.full((len(a),), float("nan"), dtype=torch.float64, device=a.device)
        lengths.append(torch.linalg.vector_norm(slope.double().flatten(1), dim=1))
    away = torch.linalg.vector_norm((a - b).double().flatten(1), dim=1)
    ratio: Tensor = (values(f, a) - values(f, b)).abs() / (away * torch.maximum(*lengths))
    return ratio


def _arrives(f: Score, a: Tensor, b: Tensor) -> Tensor:
    """Whether walks along the gradient, from a and no farther than b, come half of the way to the score there, (P,)."""
    here, there = values(f, a), values(f, b)
    toward, half, found = (there - here).sign().to(a.dtype), (there - here).abs() / 2, torch.zeros_like(here)
    far = torch.linalg.vector_norm((b - a).flatten(1), dim=1)
    at = a
    for k in range(WALK):
        slope, _ = gradient(f, at)
        if slope is None:
            break
        length = toward * far / 8 * (1 - k / (WALK + 4))
        moved = at + wide(length, at) * steepest_l2(slope.to(a.dtype).nan_to_num(0, 0, 0)) - a
        share = far / torch.linalg.vector_norm(moved.flatten(1), dim=1).maximum(far)
        at = (a + wide(share, a) * moved).clamp(0, 1)
        found = torch.maximum(found, toward * (values(f, at) - here))
    return found >= half


def _unexplained(f: Score, a: Tensor, b: Tensor, segments: int) -> Tensor:
    """What the gradient leaves of each pair, shape (P,); NaN where the score does not vary, or has no gradient."""
    score = values(f, a)
    told, off, low, high = score, torch.zeros_like(score), score, score
    for k in range(segments):
        slope, _ = gradient(f, a + (b - a) * ((k + 0.5) / segments))
        if slope is None:
            return torch.full_like(score, float("nan"))
        told = told + (slope.double() * (b - a).double()).flatten(1).sum(1) / segments
        score = values(f, a + (b - a) * ((k + 1) / segments))
        off = torch.maximum(off, (told - score).abs())
        low, high = torch.minimum(low, score), torch.maximum(high, score)
    return off / (high - low)
