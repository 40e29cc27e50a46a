"""CCU: Meinke & Hein, "Towards Neural Networks That Provably Know When They Don't Know", ICLR 2020,
arXiv:1909.12180."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from oodattack.classifier import Classifier
from oodattack.detectors.batches import Images, batches
from oodattack.detectors.msp import log_odds
from oodattack.detectors.net import OnNetwork, check_net
from oodattack.detectors.spherical_mixture import Metric, Mixture, coordinates, fit_metric, fit_mixture, log_density

APART = 4.0  # smallest variance outside over the largest inside, as in the authors' code


def ccu(logits: Tensor, log_in: Tensor, log_out: Tensor) -> Tensor:
    """log((1 - p) / (p - 1/K)) of the confidence p = max_k p(k|x), a decreasing function of p on (1/K, 1).

    p(k|x) = (softmax_k(f) p_in + p_out / K) / (p_in + p_out), and with q = max_k softmax_k the score is
    log(1 - q + (1 - 1/K) p_out / p_in) - log(q - 1/K): never saturated, where p itself rounds to 1/K or 1.

    Args:
        logits: shape (B, K), K >= 2, or their log-softmax.
        log_in: log of the ID density, shape (B,).
        log_out: log of lambda times the density outside, shape (B,).

    Returns:
        OOD scores, shape (B,), unbounded.
    """
    k = logits.shape[1]
    odds = log_odds(logits)  # log((1 - q) / q)
    behind = logits - logits.amax(dim=1, keepdim=True)
    lead = -behind.expm1().sum(dim=1).clamp(max=-torch.finfo(logits.dtype).tiny)  # K - 1/q
    unsure = torch.logaddexp(logsigmoid(odds), log_out - log_in + math.log1p(-1 / k))
    return unsure - lead.log() + math.log(k) - logsigmoid(-odds)


class CCU(OnNetwork):
    """Confidence of a network where a density of images says ID, and 1/K where one of others says OOD; see `ccu`.

    Args:
        net: classifier.
        metric: of images, shared by both mixtures.
        inside: mixture fitted to ID images.
        outside: mixture fitted to others; wider than `inside`, or inputs far from all data would pass for ID.
        log_lambda: log of the prior odds of OOD.

    Raises:
        ValueError: a component outside that is not wider than all those inside.

    Differs from the paper: higher means more OOD, and the score is a function of the paper's, max_k p(k|x), that keeps
    apart what rounding makes equal: `log_confidence` has the paper's. Computed in float64.
    """

    name = "ccu"

    def __init__(
        self, net: Classifier, metric: Metric, inside: Mixture, outside: Mixture, *, log_lambda: float = 0.0
    ) -> None:
        super().__init__(net, "logits")
        narrow, wide = outside.sigmas.min().item(), inside.sigmas.max().item()
        if not narrow > wide:
            raise ValueError(f"`outside` must have sigmas > those inside, got {narrow:g} and {wide:g}. Widen it.")
        self.log_lambda = log_lambda
        for group, parts in (("metric", metric), ("inside", inside), ("outside", outside)):
            for field, value in zip(parts._fields, parts, strict=True):
                self.register_buffer(f"{group}_{field}", value)

    def _parts(self, group: str, fields: Sequence[str]) -> list[Any]:
        return [self.get_buffer(f"{group}_{field}") for field in fields]

    @property
    def metric(self) -> Metric:
        """Of images."""
        return Metric(*self._parts("metric", Metric._fields))

    @property
    def inside(self) -> Mixture:
        """The mixture fitted to ID images."""
        return Mixture(*self._parts("inside", Mixture._fields))

    @property
    def outside(self) -> Mixture:
        """The mixture fitted to other images."""
        return Mixture(*self._parts("outside", Mixture._fields))

    def _latent(self, x: Tensor) -> Tensor:
        """`latent` in float64."""
        logits, u = self.net.logits(x), coordinates(x, self.metric)
        densities = log_density(u, self.inside), log_density(u, self.outside) + self.log_lambda
        return torch.cat([logits.double().log_softmax(dim=1), torch.stack(densities, dim=1)], dim=1)

    def latent(self, x: Tensor) -> Tensor:
        """Log-softmax of the network, log p_in and log lambda p_out, shape (B, K + 2)."""
        return self._latent(x).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), unbounded."""
        z = self._latent(x)
        return ccu(z[:, :-2], z[:, -2], z[:, -1]).to(x.dtype)

    def log_confidence(self, x: Tensor) -> Tensor:
        """max_k log p(k|x), shape (B,), in [-log K, 0]: the paper's own score, ID high."""
        z = self._latent(x)
        k = z.shape[1] - 2
        both = torch.logaddexp(z[:, :-2].amax(dim=1) + z[:, -2], z[:, -1] - math.log(k))
        return (both - torch.logaddexp(z[:, -2], z[:, -1])).to(x.dtype)


def fit_ccu(
    net: Classifier,
    x: Images,
    *,
    ood: Images | None = None,
    seed: int,
    components: int = 100,
    power: float = 0.5,
    batch_size: int = 256,
) -> CCU:
    """Metric and mixture of ID images x (N, C, H, W) in [0, 1], and a mixture of others; the network is left alone.

    Args:
        net: classifier.
        x: ID images, or batches of them; all are held, and with them an axis of the metric each, D of them at most.
        ood: images of everything else, or batches of them. None: `noise_like` the ID images.
        seed: of the clustering and the noise.
        components: of each mixture; fewer where there are less than two images for each.
        power: of the singular values in the metric, see `fit_metric`.
        batch_size: images at a time.

    Raises:
        ValueError: no images, images that are all alike or of other channels, or `components` out of range.

    Differs from the paper: the mixtures are not trained further, and not jointly with the network. Differs from the
    authors' code: each component keeps a variance and a weight of its own; theirs start from one variance and share
    the weights. As in their code, variances outside are at least 4 times the largest inside.
    """
    check_net(net, "logits")
    ours = _gathered(net, x, batch_size)
    net.normalised(ours[:1])  # refuses images of other channels before anything is fitted to them
    others = noise_like(ours, Generator().manual_seed(seed)) if ood is None else _gathered(net, ood, batch_size)
    metric = fit_metric(ours, power=power)
    inside = fit_mixture(coordinates(ours, metric), components=components, seed=seed)
    outside = fit_mixture(coordinates(others, metric), components=components, seed=seed)
    least = math.sqrt(APART) * inside.sigmas.max()
    return CCU(net, metric, inside, outside._replace(sigmas=outside.sigmas.clamp(min=least.item())))


def _gathered(net: Classifier, x: Images, batch_size: int) -> Tensor:
    return torch.cat([rows for rows, _ in batches(x, net=net, batch_size=batch_size)])


def noise_like(x: Tensor, generator: Generator) -> Tensor:
    """Images of pixels in random order, or uniform noise, blurred and with more contrast; shape of `x`.

    As the noise that the authors' code evaluates on, where sigma is drawn from 1..2.5 pixels and contrast g of
    sigmoid(g (x - 1/2)) from 5..30; theirs has no uniform noise, here every other image begins as it.
    """
    n, _, h, w = x.shape
    drawn = torch.rand(n, 1, h * w, generator=generator).argsort(dim=2).to(x.device)
    noise = x.flatten(2).gather(2, drawn.expand(-1, x.shape[1], -1)).view_as(x)
    noise[1::2] = torch.rand(noise[1::2].shape, generator=generator).to(x)
    sigma, contrast = (low + span * torch.rand(n, 1, 1, generator=generator).to(x) for low, span in ((1, 1.5), (5, 25)))
    blurred = _blur(h, sigma)[:, None] @ noise @ _blur(w, sigma).mT[:, None]
    return (contrast[..., None] * (blurred - 0.5)).sigmoid()


def _blur(size: int, sigma: Tensor) -> Tensor:
    """Gaussian weights between positions of a line, rows summing to 1: shape (N, size, size), sigma (N, 1, 1)."""
    at = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    return (-(at[:, None] - at).square() / (2 * sigma.square())).softmax(dim=2)
