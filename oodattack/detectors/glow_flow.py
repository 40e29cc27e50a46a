"""Glow, a normalising flow: Kingma & Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", NeurIPS 2018,
arXiv:1807.03039; in the form of rosinality/glow-pytorch, which Liang et al. 2020, arXiv:2009.08016, attack."""

import math
import warnings
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from oodattack.detectors.straight_through import with_gradient_of

MIDDLE = 0.5  # of a bin, in place of the noise that training adds


class Glow(nn.Module):
    """From pixels to Gaussian noise: on each level squeeze, `steps` of (actnorm, 1x1 convolution, coupling), split.

    Blocks are those of the package normflows. The half that a level splits off has means and standard deviations that
    a convolution predicts from the half that goes on. Weights are drawn from torch's global random state.

    Args:
        channels: C of the images, >= 1.
        levels: L, each with half as many pixels a side, >= 1; the authors of the attack have 4.
        steps: of flow on a level, >= 1; theirs are 32.
        hidden: channels inside a coupling, >= 1; theirs are 512.
        affine: couplings that scale and shift; theirs only shift.
        n_bits: to which pixels are quantised, 1..8; theirs are 5.

    Raises:
        ValueError: a number out of range, or normflows is not installed.

    Differs from that code: images whose sides 2^L does not divide are filled up with black on the right and below; no
    learned scale behind the convolutions that start at zero, and zeros beyond the edges of their inputs.
    """

    def __init__(
        self,
        channels: int,
        *,
        levels: int = 2,
        steps: int = 4,
        hidden: int = 32,
        affine: bool = False,
        n_bits: int = 5,
    ) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("levels", levels), ("steps", steps), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"`{name}` must be >= 1, got {value}. Make it larger.")
        if not 1 <= n_bits <= 8:
            raise ValueError(f"`n_bits` must be in 1..8, got {n_bits}. The authors of the attack take 5.")
        self.channels, self.levels, self.steps, self.hidden = channels, levels, steps, hidden
        self.affine, self.n_bits = affine, n_bits
        library = normflows().flows
        self.squeeze = library.Squeeze()
        self.flows, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            width, last = channels * 2 ** (level + 2), level + 1 == levels
            with warnings.catch_warnings():  # about a name in torch that the library will have to change
                warnings.filterwarnings("ignore", message="torch.lu is deprecated")
                blocks = [library.GlowBlock(width, hidden, scale=affine) for _ in range(steps)]
            self.flows.append(nn.ModuleList(blocks))
            self.priors.append(zero_convolution(width, 2 * width) if last else zero_convolution(width // 2, width))
        start_from_data(self, False)

    def forward(self, v: Tensor) -> Tensor:
        """-log2 of the density of v (B, C, H, W), values in [-0.5, 0.5], sides divisible by 2^L: shape (B,)."""
        log_p = v.new_zeros(len(v))
        for i, (flows, prior) in enumerate(zip(self.flows, self.priors, strict=True)):
            v, _ = self.squeeze.inverse(v)
            for flow in flows:  # type: ignore[attr-defined]
                v, log_det = flow.inverse(v)  # the library's inverse leads from pixels to noise
                log_p = log_p + log_det
            v, z = v.chunk(2, dim=1) if i + 1 < self.levels else (torch.zeros_like(v), v)
            log_p = log_p + gaussian(z, *prior(v).chunk(2, dim=1))
        return -log_p / math.log(2)


def normflows() -> Any:
    """The package, which the extra `flows` installs.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module("normflows")
    except ImportError:
        raise ValueError("`Glow` must have the package normflows. Run `pip install 'oodattack[flows]'`.") from None


def zero_convolution(channels: int, out: int) -> nn.Conv2d:
    """A 3x3 convolution that returns zeros until it is trained."""
    convolution = nn.Conv2d(channels, out, 3, padding=1)
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def start_from_data(flow: Glow, wanted: bool) -> None:
    """Whether the actnorms take their scales from the next batch, as the library would from the first to be scored."""
    for name, done in flow.named_buffers():
        if name.endswith("data_dep_init_done"):
            done.fill_(not wanted)


def gaussian(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of independent Gaussians, summed over all but the first dimension: shape (B,)."""
    off = (z - mean) * (-log_std).exp()
    return -(off.square() / 2 + log_std + math.log(2 * math.pi) / 2).flatten(1).sum(dim=1)


def bits_per_dim(flow: Glow, x: Tensor, *, noise: Tensor | float = MIDDLE, smooth: bool = False) -> Tensor:
    """-log2 p(x) / (C H W), p the probability of a quantised image: the density in its bin times the bin's volume.

    A pixel is q = floor(255 x / 2^(8 - n_bits)), 255 x rounded first, and the flow sees (q + noise) / 2^n_bits - 1/2.
    The gradient passes straight through both roundings.

    Args:
        flow: says what n_bits is.
        x: shape (B, C, H, W), values in [0, 1].
        noise: where in its bin a pixel is, in [0, 1]; for training a tensor of the shape of `padded` x.
        smooth: leave out the roundings: a differentiable function of x.

    Returns:
        Shape (B,); what overflows is the largest number of the type.

    Raises:
        ValueError: images that are not of the flow's channels.
    """
    if x.ndim != 4 or x.shape[1] != flow.channels:
        raise ValueError(
            f"`x` must have shape (B, {flow.channels}, H, W) as the flow has, got {tuple(x.shape)}. "
            "Convert the images, or fit on such ones."
        )
    scaled = 255 * padded(x, flow.levels)
    if smooth:
        v = (scaled + 0.5) / 256 - 0.5  # as far from the bin's lower end as the 8-bit values in it are on average
    else:
        q = (scaled.detach().round() / 2 ** (8 - flow.n_bits)).floor()
        v = with_gradient_of((q + noise) / 2**flow.n_bits - 0.5, scaled / 256)
    bits = flow(v) + flow.n_bits * v[0].numel()
    per_dim: Tensor = bits / x[0].numel()
    return per_dim.nan_to_num(nan=torch.finfo(x.dtype).max)


def padded(x: Tensor, levels: int) -> Tensor:
    """Images with black on the right and below, up to sides that 2^levels divides."""
    return pad(x, (0, -x.shape[3] % 2**levels, 0, -x.shape[2] % 2**levels))
