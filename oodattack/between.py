"""Whether the gradient of a score explains how it differs between two sets of images.

What `probe` says of a gradient at a point is not enough: on two plateaus that a step lies between it may be right at
every image, and tell nothing of what tells the sets apart.
"""

import torch
from torch import Tensor

from oodattack.detector import Score
from oodattack.geometry import steepest_l2, wide
from oodattack.probe import gradient, plain_scores

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

    A pair is suspect if

        |f(a) - f(b)| > 10 ||a - b||_2 max(||grad f(a)||_2, ||grad f(b)||_2)

    By the mean value theorem the gradient is then more than ten times as long somewhere between a and b. Either the
    score jumps there, as between two plateaus that are not quite flat, and its gradient at the images does not lead
    across. Or the score saturates: its gradient at the images is short, but does lead across. To tell one from the
    other, a walk along the gradient begins at each image of a suspect pair. It has 24 steps, the first of length
    ||a - b||_2 / 8 and each shorter than the one before, and leaves neither the box nor the ball of radius ||a - b||_2.
    The pair counts unless both walks come half of the way, to (f(a) + f(b)) / 2. All walks on saturated honest scores
    do.

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

    On the line from a to b, x_k = a + (b - a) k / n, the gradient predicts the score f(x_k) as

        f(a) + sum_{j < k} <grad f(x_{j + 1/2}), x_{j+1} - x_j>

    which is its integral by the midpoint rule. By the fundamental theorem of calculus the prediction is right but for
    the error of the rule. A pair counts if by the finest rule it is wrong at some k by more than 0.5 of the score's
    range on the line. Then the score jumps, as between two plateaus, or its gradient is that of another function: its
    slope, however long, leads elsewhere. Every k is looked at, so that jumps do not make up for one another; pairs are
    counted, so that some images do not vouch for others. A rule fine enough for honest scores resolves steep but finite
    slopes too: where the plateaus beside these are flat, `misled_share` finds them.

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
    """|f(a) - f(b)| / (||a - b||_2 max(||grad f(a)||_2, ||grad f(b)||_2)), shape (P,); NaN without a gradient."""
    lengths = []
    for x in (a, b):
        slope, _ = gradient(f, x)
        if slope is None:
            return torch.full((len(a),), float("nan"), dtype=torch.float64, device=a.device)
        lengths.append(torch.linalg.vector_norm(slope.double().flatten(1), dim=1))
    away = torch.linalg.vector_norm((a - b).double().flatten(1), dim=1)
    ratio: Tensor = (plain_scores(f, a) - plain_scores(f, b)).abs() / (away * torch.maximum(*lengths))
    return ratio


def _arrives(f: Score, a: Tensor, b: Tensor) -> Tensor:
    """Whether walks along the gradient, from a and no farther than b, come half of the way to the score of b, (P,)."""
    start, goal = plain_scores(f, a), plain_scores(f, b)
    way = (goal - start).sign().to(a.dtype)  # up or down
    far = torch.linalg.vector_norm((b - a).flatten(1), dim=1)
    at, gained = a, torch.zeros_like(start)
    for k in range(WALK):
        slope, _ = gradient(f, at)
        if slope is None:
            break
        length = way * far / 8 * (1 - k / (WALK + 4))
        moved = at + wide(length, at) * steepest_l2(slope.to(a.dtype).nan_to_num(0, 0, 0)) - a
        share = far / torch.linalg.vector_norm(moved.flatten(1), dim=1).maximum(far)
        at = (a + wide(share, a) * moved).clamp(0, 1)
        gained = torch.maximum(gained, way * (plain_scores(f, at) - start))
    return gained >= (goal - start).abs() / 2


def _unexplained(f: Score, a: Tensor, b: Tensor, segments: int) -> Tensor:
    """Largest error of what the gradient predicts on the line of each pair, in shares of the score's range there.

    Shape (P,); NaN where the score does not vary, or has no gradient.
    """
    score = plain_scores(f, a)
    predicted, error, low, high = score, torch.zeros_like(score), score, score
    for k in range(segments):
        slope, _ = gradient(f, a + (b - a) * ((k + 0.5) / segments))
        if slope is None:
            return torch.full_like(score, float("nan"))
        predicted = predicted + (slope.double() * (b - a).double()).flatten(1).sum(1) / segments
        score = plain_scores(f, a + (b - a) * ((k + 1) / segments))
        error = torch.maximum(error, (predicted - score).abs())
        low, high = torch.minimum(low, score), torch.maximum(high, score)
    return error / (high - low)
