"""Several detectors as one: the sum of their z-scores. An attacker of the sum must deceive all parts at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oodattack.detector import Detector, Score, Surrogate
from oodattack.detectors.batches import BATCH_SIZE, Images, over_batches
from oodattack.keep_graph import Kept


@dataclass(frozen=True)
class ZScores:
    """(score_i(x) - mean_i) / std_i of every part i.

    Attributes:
        scores: of the parts, each (B, C, H, W) -> (B,), higher means more OOD.
        means: one number a part.
        stds: one number a part, > 0.
    """

    scores: tuple[Score, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """z-scores, shape (B, parts)."""
        rows = zip(self.scores, self.means, self.stds, strict=True)
        return torch.stack([(score(x).to(x.dtype) - mean) / std for score, mean, std in rows], dim=1)


@dataclass(frozen=True)
class Total:
    """Sum over the parts of their z-scores."""

    z: ZScores

    def __call__(self, x: Tensor) -> Tensor:
        """Scores, shape (B,)."""
        return self.z(x).sum(dim=1)


class WeightedSum(nn.Module):
    """sum_i (score_i(x) - mean_i) / std_i, with a surrogate made of those of the parts.

    Args:
        parts: name -> detector.
        means: one number a part, in the order of `parts`; with 0 and stds of 1 this is the plain sum.
        stds: one number a part, > 0.
        soft_means: as `means`, for what an attack differentiates: the part's surrogate, or its score if it has none.
            Default: `means`, for surrogates in the units of the scores.
        soft_stds: as `stds`; default `stds`.

    Raises:
        ValueError: no parts, not one mean and std a part, or a std that is not positive.
    """

    def __init__(
        self,
        parts: Mapping[str, Detector],
        means: Sequence[float],
        stds: Sequence[float],
        *,
        soft_means: Sequence[float] | None = None,
        soft_stds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_scales(parts, means, stds)
        self.parts, self.name = dict(parts), "+".join(parts)
        self.means, self.stds = tuple(means), tuple(stds)
        self.soft_means, self.soft_stds = tuple(soft_means or means), tuple(soft_stds or stds)
        check_scales(parts, self.soft_means, self.soft_stds)
        self.z_scores = ZScores(tuple(parts.values()), self.means, self.stds)
        stand_ins = [getattr(part, "surrogate", None) for part in parts.values()]
        if any(stand_ins):  # else the sum has a gradient of its own
            soft = ZScores(tuple(map(differentiable, parts.values())), self.soft_means, self.soft_stds)
            names = [
                stand_in.name if stand_in else f"{name} itself" for name, stand_in in zip(parts, stand_ins, strict=True)
            ]
            self.surrogate = Surrogate("sum of " + " and ".join(names), Total(soft), soft)
        modules = [part for part in parts.values() if isinstance(part, nn.Module)]
        self.registered = nn.ModuleList(modules)
        self.training = self.registered.training = any(module.training for module in modules)
        nets = {id(net): net for part in parts.values() if (net := getattr(part, "net", None)) is not None}
        if len(nets) == 1:
            (self.net,) = nets.values()

    def latent(self, x: Tensor) -> Tensor:
        """z-scores of the parts, shape (B, parts)."""
        return self.z_scores(x)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), unbounded."""
        return self.latent(x).sum(dim=1)


@dataclass(frozen=True)
class Followed:
    """A part's score where a gradient is asked for: one that hides it would leave the gradient of the other parts.

    Raises:
        RuntimeError: when called for a gradient, if the score has none.
    """

    score: Score

    def __call__(self, x: Tensor) -> Tensor:
        """Scores, shape (B,)."""
        found = self.score(x)
        if torch.is_grad_enabled() and x.requires_grad and not found.requires_grad:
            raise RuntimeError("a part of the sum has no gradient")
        return found


def differentiable(part: Detector) -> Score:
    """The score of a detector's surrogate, or where it has none the detector itself with its graph kept."""
    stand_in: Surrogate | None = getattr(part, "surrogate", None)
    return Followed(stand_in.score if stand_in else Kept(part))


def fit_weighted_sum(parts: Mapping[str, Detector], x: Images, *, batch_size: int = BATCH_SIZE) -> WeightedSum:
    """z-score every part, and separately what an attack on it differentiates, over the same ID images.

    Surrogates have scales of their own (log-odds for a softmax, densities for counts): with those of the scores, one
    part's gradient would drown that of the others.

    Args:
        parts: name -> detector.
        x: ID images, values in [0, 1], at least 2: shape (N, C, H, W), or see `batches`. One batch is held at a time,
            and of every image one number a part.
        batch_size: images per call.

    Raises:
        ValueError: no parts, no images, or a part, or its surrogate, whose scores are all equal or not finite.
    """
    check_scales(parts, [0.0] * len(parts), [1.0] * len(parts))
    named = [*parts.items(), *((f"surrogate of {name}", differentiable(part)) for name, part in parts.items())]
    modules = nn.ModuleList([part for part in parts.values() if isinstance(part, nn.Module)])  # tell the device

    def scores(rows: Tensor) -> Tensor:
        return torch.stack([score(rows).double() for _, score in named], dim=1)

    columns = over_batches(scores, x, net=modules, batch_size=batch_size).unbind(1)
    means, stds = zip(*(scale(name, column) for (name, _), column in zip(named, columns, strict=True)), strict=True)
    n = len(parts)
    return WeightedSum(parts, means[:n], stds[:n], soft_means=means[n:], soft_stds=stds[n:])


def scale(name: str, scores: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the scores (N,) of what is called `name`."""
    mean, std = scores.mean().item(), scores.std(correction=min(1, len(scores) - 1)).item()
    if not 0 < std < float("inf"):
        raise ValueError(f"`parts` must have scores that vary over ID images, got std {std} from {name}. Leave it out.")
    return mean, std


def check_scales(parts: Mapping[str, Detector], means: Sequence[float], stds: Sequence[float]) -> None:
    """Raise ValueError unless there are parts, with one mean and one positive std each."""
    if not parts:
        raise ValueError("`parts` must have at least one detector, got none. Add one.")
    if not len(parts) == len(means) == len(stds):
        raise ValueError(
            f"`means` and `stds` must have one number a part, got {len(means)} and {len(stds)} for {len(parts)}. "
            "`fit_weighted_sum` measures them."
        )
    if not all(std > 0 for std in stds):
        raise ValueError(f"`stds` must be > 0, got {list(stds)}. `fit_weighted_sum` measures them.")
