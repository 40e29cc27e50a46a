"""SalAgg and SalAgg+MLS: Hanssen & Hammer, "XAI Saliency Maps Can Be Used for OOD Detection", section 4."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.batches import Images, over_batches
from oodattack.detectors.max_logit import max_logit
from oodattack.detectors.net import OnNetwork
from oodattack.detectors.saliency import Option, saliency
from oodattack.detectors.saliency_aggregates import AGGREGATES
from oodattack.detectors.saliency_lime import draw_masks
from oodattack.detectors.straight_through import with_gradient_of
from oodattack.lookup import unknown

BATCH_SIZE = 64  # images a pass while fitting: maps hold a forward pass with its graph


class SalAgg(OnNetwork):
    """-S A(s(x)): an aggregate A of the saliency map s of the predicted class. See `fit_sal_agg`.

    Maps made of gradients are piecewise constant in the input of a ReLU network, or nearly, and blind to the pull of
    other classes. The surrogate has the same values (of fewer nodes, for integrated gradients), and derivatives in
    which ReLUs open smoothly, plus `logit_slope` times the gradient of the largest logit: what A gains, on average
    over images, where the logit gains 1.

    Args:
        net: classifier.
        method: of `saliency.SALIENCIES`.
        aggregate: of `saliency_aggregates.AGGREGATES`.
        sign: S, +1 where ID images have the larger aggregates, -1 where OOD images have.
        logit_slope: of A against the largest logit; 0 to attack the map alone.
        options: of the method: `sum_channels` (guided-backprop), `layer` (grad-cam), `steps` (integrated-gradients),
            `grid` (occlusion, lime), `count` (lime). Default: those of the paper.
        seed: of LIME's masks, drawn once for all images; not used otherwise.

    Raises:
        ValueError: an unknown method, aggregate or option, a sign that is none, or LIME without a seed.

    Differs from the paper: higher means more OOD.
    """

    name = "sal-agg"
    masks: Tensor

    def __init__(
        self,
        net: Classifier,
        *,
        method: str,
        aggregate: str,
        sign: int,
        logit_slope: float = 0.0,
        options: Mapping[str, Option] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(net, "logits")
        row = saliency(method, options or {})
        if aggregate not in AGGREGATES:
            raise unknown("aggregate", aggregate, list(AGGREGATES))
        if sign not in (-1, 1):
            raise ValueError(f"`sign` must be 1 or -1, got {sign}. `fit_sal_agg` finds it.")
        if row.masked:
            if seed is None:
                raise ValueError(f"`seed` must be a number for {method!r}, which draws masks, got None. Choose one.")
            self.register_buffer("masks", draw_masks(seed=seed, **(options or {})))  # type: ignore[arg-type]
        self.method, self.aggregate, self.sign = method, aggregate, sign
        self.logit_slope, self.options, self.seed = logit_slope, options, seed
        words = "smooth ReLU derivatives" if row.soft else "the gradient of the map"
        words = f"score with {words} and {logit_slope:g} of that of the largest logit"
        self.surrogate = Surrogate(words, self.soft, self.soft_latent, exact="steps" not in row.soft)

    def map(self, x: Tensor, *, soft: bool = False) -> Tensor:
        """The saliency map, shape (B, n); with `soft`, that of the surrogate."""
        row = saliency(self.method, self.options or {})
        options: dict[str, object] = {"masks": self.masks} if row.masked else dict(self.options or {})
        if soft:
            options |= row.soft
        return row.compute(self.net, x, **options)

    def latent(self, x: Tensor) -> Tensor:
        """The saliency map, flattened: shape (B, n)."""
        return self.map(x)

    def soft_latent(self, x: Tensor) -> Tensor:
        """The surrogate's saliency map, shape (B, n)."""
        return self.map(x, soft=True)

    def aggregated(self, x: Tensor) -> Tensor:
        """A(s(x)), shape (B,)."""
        return AGGREGATES[self.aggregate](self.map(x))

    def soft_aggregated(self, x: Tensor) -> Tensor:
        """`aggregated` of the surrogate's map, with the largest logit's share of the gradient: shape (B,)."""
        pull = -self.logit_slope * max_logit(self.net.logits(x))
        return with_gradient_of(AGGREGATES[self.aggregate](self.map(x, soft=True)), pull)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), unbounded."""
        return -self.sign * self.aggregated(x)

    def soft(self, x: Tensor) -> Tensor:
        """What an attack differentiates, shape (B,)."""
        return -self.sign * self.soft_aggregated(x)


class SalAggMLS(SalAgg):
    """-(max_c f_c(x) / sigma_mls + S A(s(x)) / sigma_agg), eq. (6). See `fit_sal_agg_mls`.

    The latent is the pair (largest logit, A): who matches these matches the score. Logits and map would be thousands of
    numbers, of which the score needs two.

    Args:
        net: as for `SalAgg`, like all arguments but the last two.
        method: as above.
        aggregate: as above.
        sign: as above.
        sigma_mls: standard deviation of the largest logit over ID images, > 0.
        sigma_agg: that of the aggregate, > 0.
        logit_slope: as above.
        options: as above.
        seed: as above.

    Raises:
        ValueError: as `SalAgg`, or a deviation that is not positive.

    Differs from the paper: higher means more OOD.
    """

    name = "sal-agg+mls"

    def __init__(
        self,
        net: Classifier,
        *,
        method: str,
        aggregate: str,
        sign: int,
        sigma_mls: float,
        sigma_agg: float,
        logit_slope: float = 0.0,
        options: Mapping[str, Option] | None = None,
        seed: int | None = None,
    ) -> None:
        shared = {"logit_slope": logit_slope, "options": options, "seed": seed}
        super().__init__(net, method=method, aggregate=aggregate, sign=sign, **shared)  # type: ignore[arg-type]
        for what, sigma in (("sigma_mls", sigma_mls), ("sigma_agg", sigma_agg)):
            if not 0 < sigma < float("inf"):
                raise ValueError(f"`{what}` must be > 0, got {sigma}. `fit_sal_agg_mls` measures it.")
        self.sigma_mls, self.sigma_agg = sigma_mls, sigma_agg

    def latent(self, x: Tensor) -> Tensor:
        """Largest logit and aggregate, shape (B, 2)."""
        return torch.stack([-max_logit(self.net.logits(x)), self.aggregated(x)], dim=1)

    def soft_latent(self, x: Tensor) -> Tensor:
        """The same with the surrogate's aggregate, shape (B, 2)."""
        return torch.stack([-max_logit(self.net.logits(x)), self.soft_aggregated(x)], dim=1)

    def weighted(self, z: Tensor) -> Tensor:
        """Scores, shape (B,), of latents (B, 2)."""
        return -(z[:, 0] / self.sigma_mls + self.sign * z[:, 1] / self.sigma_agg)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), unbounded."""
        return self.weighted(self.latent(x))

    def soft(self, x: Tensor) -> Tensor:
        """What an attack differentiates, shape (B,)."""
        return self.weighted(self.soft_latent(x))


class Validation(NamedTuple):
    """What validation images say about an aggregate."""

    sign: int
    sigma_mls: float
    sigma_agg: float
    logit_slope: float


def fit_sal_agg(
    net: Classifier,
    id_val: Images,
    ood_val: Images | None,
    *,
    method: str = "grad-cam",
    aggregate: str = "norm",
    options: Mapping[str, Option] | None = None,
    seed: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> SalAgg:
    """Find which side has the larger aggregates, from validation images of both sides.

    S = +1 if the mean of A over ID images is above that over OOD images, else -1. The default pair is the best of those
    that section 5.1 tries alone.

    Args:
        net: classifier.
        id_val: ID images (N, C, H, W) in [0, 1], N >= 2, or batches of them; labels are not used.
        ood_val: OOD images likewise, of no set that is tested on.
        method: see `SalAgg`.
        aggregate: see `SalAgg`.
        options: see `SalAgg`.
        seed: see `SalAgg`.
        batch_size: images a pass.

    Raises:
        ValueError: as `SalAgg`; no OOD images, or aggregates that are not finite or the same for all ID images.
    """
    choice = {"method": method, "aggregate": aggregate, "options": options, "seed": seed}
    found = validate(SalAgg(net, sign=1, **choice), id_val, ood_val, batch_size)  # type: ignore[arg-type]
    return SalAgg(net, sign=found.sign, logit_slope=found.logit_slope, **choice)  # type: ignore[arg-type]


def fit_sal_agg_mls(
    net: Classifier,
    id_val: Images,
    ood_val: Images | None,
    *,
    method: str = "guided-backprop",
    aggregate: str = "norm",
    options: Mapping[str, Option] | None = None,
    seed: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> SalAggMLS:
    """`fit_sal_agg`, and the unbiased standard deviations of both parts over the ID images.

    The default pair is the paper's GBPNorm, its best with the largest logit (section 5.3). Arguments and errors are
    those of `fit_sal_agg`.
    """
    choice = {"method": method, "aggregate": aggregate, "options": options, "seed": seed}
    found = validate(SalAgg(net, sign=1, **choice), id_val, ood_val, batch_size)  # type: ignore[arg-type]
    return SalAggMLS(net, **choice, **found._asdict())  # type: ignore[arg-type]


def validate(draft: SalAgg, id_val: Images, ood_val: Images | None, batch_size: int) -> Validation:
    """Sign and deviations as in section 4, and the least-squares slope of A against the largest logit, over all images.

    Raises:
        ValueError: as `fit_sal_agg`.
    """
    if ood_val is None:
        raise ValueError("`ood_val` must be OOD validation images, which tell the sign, got None. Pass some.")

    def pairs(x: Tensor) -> Tensor:
        return torch.stack([-max_logit(draft.net.logits(x)), draft.aggregated(x)], dim=1).double()

    id_, ood = (over_batches(pairs, images, net=draft.net, batch_size=batch_size) for images in (id_val, ood_val))
    if not (id_.isfinite().all() and ood.isfinite().all()):
        raise ValueError(
            f"`aggregate` must be finite on all images, got others from {draft.aggregate!r}. Take another."
        )
    sigma_mls, sigma_agg = (id_.std(dim=0) if len(id_) > 1 else id_.new_zeros(2)).tolist()
    if min(sigma_mls, sigma_agg) <= 0:
        raise ValueError(
            f"`id_val` must have images of which logits and aggregates vary, got deviations {sigma_mls:g} and "
            f"{sigma_agg:g} over {len(id_)} images. Pass more, or take another aggregate."
        )
    top, a = (torch.cat([id_, ood]) - torch.cat([id_, ood]).mean(dim=0)).unbind(dim=1)
    slope = ((top * a).sum() / top.square().sum()).item()
    return Validation(1 if id_[:, 1].mean() > ood[:, 1].mean() else -1, sigma_mls, sigma_agg, slope)
