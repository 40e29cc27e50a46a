"""A detector made of another one and Gaussian noise, whose median score has bounds whatever the network is.

Median smoothing: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing", NeurIPS
2020, arXiv:2007.03730.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from oodattack.bounds.order_statistics import rank_above, rank_below
from oodattack.bounds.score_bounds import ScoreBounds, check_images
from oodattack.detector import Score, Surrogate
from oodattack.geometry import row_random

ROWS = 256  # noisy images scored at a time


class Smoothed(nn.Module):
    """Median over draws of score(clamp(x + sigma g, 0, 1)), g standard normal. See `smoothed_bounds`.

    The draws are the same for every image and every call, so the score is a function of the image alone. It estimates
    the median over all g, which the certificate is about.

    Args:
        detector: scores images, higher means more OOD.
        sigma: standard deviation of the noise, > 0, input units.
        draws: n, odd, so that the median is one of them.
        seed: of the noise.

    Raises:
        ValueError: a sigma that is not positive, or draws that are not odd.
    """

    def __init__(self, detector: Score, *, sigma: float, draws: int, seed: int) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"`sigma` must be > 0, got {sigma}. It is in input units.")
        if draws < 1 or draws % 2 == 0:
            raise ValueError(f"`draws` must be odd, got {draws}. The median is one of them.")
        self.detector, self.sigma, self.draws, self.seed = detector, sigma, draws, seed
        self.name = f"smoothed-{getattr(detector, 'name', type(detector).__name__.lower())}"
        self.surrogate = Surrogate("mean over the draws", self.mean)
        self.training = getattr(detector, "training", False)

    def scores(self, x: Tensor) -> Tensor:
        """Scores of the noisy images, shape (B, draws)."""
        noise = row_random(self.seed, "smoothed", range(self.draws), x.device, x.dtype).normal(x.shape[1:])
        return noisy_scores(self.detector, x, self.sigma * noise[None])

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the draws, shape (B,): what an attack differentiates, as it sees them all."""
        return self.scores(x).mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return self.scores(x).median(dim=1).values


def noisy_scores(detector: Score, x: Tensor, noise: Tensor) -> Tensor:
    """score(clamp(x_i + noise_ij, 0, 1)): shapes (B, ...) and (B or 1, n, ...) -> (B, n).

    Raises:
        ValueError: more than one score a row.
    """
    images = (x[:, None] + noise).clamp(0, 1).flatten(0, 1)
    found = torch.cat([detector(part) for part in images.split(ROWS)])
    if found.shape != images.shape[:1]:
        got = f"{tuple(found.shape)} for {len(images)} images"
        raise ValueError(f"the score must be one number a row, got {got}. Reduce each row.")
    return found.view(len(x), -1)


def smoothed_bounds(
    detector: Score, x: Tensor, *, eps: float, sigma: float, draws: int, alpha: float, seed: int
) -> ScoreBounds:
    """q_{Phi(-eps / sigma)} <= median at x' <= q_{Phi(eps / sigma)} for all ||x' - x||_2 <= eps, q quantiles at x.

    The quantiles are bounded by order statistics of the draws. All 2 N bounds hold together with probability >= 1 -
    alpha: each may be wrong with alpha / (2 N). `guarantee` takes those of two sets, of eps 0 where nobody attacks,
    and holds but for the sum of their alphas.

    Args:
        detector: of the noisy images, not a `Smoothed` one.
        x: images, shape (N, C, H, W), in [0, 1].
        eps: l2 radius, >= 0, input units.
        sigma: standard deviation of the noise, > 0.
        draws: n a row.
        alpha: probability that any bound is wrong, in (0, 1).
        seed: of the noise; each row has its own.

    Returns:
        Of the median over the noise; `clean` is that of the draws. Infinite where they are too few for the level.

    Raises:
        ValueError: numbers or images out of range, a detector that is smoothed already, or scores that are not finite.
    """
    check_images(x)
    if isinstance(detector, Smoothed):
        raise ValueError("`detector` must be that of the noisy images, got a Smoothed one. Pass its `detector`.")
    if not (eps >= 0 and sigma > 0 and draws >= 1 and 0 < alpha < 1):
        got = f"{eps}, {sigma}, {draws} and {alpha}"
        raise ValueError(f"`eps` must be >= 0, `sigma` > 0, `draws` >= 1, `alpha` in (0, 1), got {got}. Correct them.")
    p = (1 + math.erf(eps / sigma / math.sqrt(2))) / 2
    each = alpha / (2 * max(len(x), 1))
    low, high = rank_below(draws, 1 - p, each), rank_above(draws, p, each)
    with torch.no_grad():
        sorted_ = torch.cat([part for part in _sorted_scores(detector, x, sigma, draws, seed)])
    if not sorted_.isfinite().all():
        raise ValueError("scores of noisy images must be finite to have bounds, got some that are not. Clamp them.")
    infinite = torch.full((len(x),), torch.inf, dtype=torch.float64)
    return ScoreBounds(
        -infinite if low is None else sorted_[:, low - 1],
        sorted_[:, (draws - 1) // 2],
        infinite if high is None else sorted_[:, high - 1],
    )


def _sorted_scores(detector: Score, x: Tensor, sigma: float, draws: int, seed: int) -> Iterator[Tensor]:
    """Scores of the noisy images in order, a row at a time: shapes (1, draws), float64, on the CPU."""
    for i in range(len(x)):
        random = row_random(seed, "smoothed bounds", [i], x.device, x.dtype)
        noise = random.normal((draws, *x.shape[1:]))
        yield noisy_scores(detector, x[i : i + 1], sigma * noise).double().cpu().sort(dim=1).values
