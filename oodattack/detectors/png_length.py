"""PNG length as image complexity: Serra et al., "Input Complexity and Out-of-distribution Detection with
Likelihood-based Generative Models", ICLR 2020, arXiv:1909.11480."""

from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from oodattack.detector import Surrogate
from oodattack.detectors.straight_through import with_gradient_of

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name
STEEP = 8.0  # makes a step of `residual_bits` about as large as one of the file; measured on pictures of many kinds


class PngLength(nn.Module):
    """-L(x), L = bits of the PNG file of x per dimension: simple images score high.

    That is the sign with which L enters the score of the paper, S = NLL - L: a `WeightedSum` of a likelihood detector
    in bits per dimension and this one, with means 0 and stds 1, is that score.

    Args:
        complex_is_ood: turn the sign: score images that compress badly high.
    """

    name = "png-length"

    def __init__(self, *, complex_is_ood: bool = False) -> None:
        super().__init__()
        self.complex_is_ood, self.sign = complex_is_ood, 1.0 if complex_is_ood else -1.0
        self.surrogate = Surrogate("gradient of PNG's filtered residuals", self.soft, self.soft_latent)
        self.eval()

    def latent(self, x: Tensor) -> Tensor:
        """The score as a latent, shape (B, 1). No gradient."""
        return self.sign * png_bits(x)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), bits per dimension. No gradient: use the surrogate."""
        return self.sign * png_bits(x)

    def soft(self, x: Tensor) -> Tensor:
        """The score, shape (B,), with the gradient of `residual_bits`."""
        bits = residual_bits(x)
        return self.sign * with_gradient_of(png_bits(x), bits)

    def soft_latent(self, x: Tensor) -> Tensor:
        """`soft` as a latent, shape (B, 1)."""
        return self.soft(x)[:, None]


def png_bits(x: Tensor) -> Tensor:
    """8 * bytes of a PNG file / (C H W), header included, of each image rounded to 8 bits.

    Args:
        x: shape (B, 1 or 3, H, W), values in [0, 1].

    Returns:
        Shape (B,), > 0. Encoded one by one on the CPU, at the best compression.
    """
    check_channels(x)
    images = (x.detach() * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    lengths = [encoded(image.squeeze(-1) if x.shape[1] == 1 else image, MODES[x.shape[1]]) for image in images]
    return x.new_tensor(lengths) * (8 / x[:1].numel())


def encoded(image: Any, mode: str) -> int:
    """Bytes of the PNG file of a uint8 array (H, W) or (H, W, 3)."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(image).convert(mode).save(file, format="PNG", compress_level=9)
    return file.tell()


def check_channels(x: Tensor) -> None:
    """Raise ValueError for images that are neither grey nor RGB."""
    if x.ndim != 4 or x.shape[1] not in MODES:
        raise ValueError(
            f"`x` must have shape (B, 1 or 3, H, W) to be written as PNG, got {tuple(x.shape)}. Convert the images."
        )


def residual_bits(x: Tensor) -> Tensor:
    """mean over dimensions of log2(1 + STEEP |r|), r the residual of PNG's filters in steps of 1/255: a smooth L.

    Like most encoders, each line takes the filter (none, sub, up, average, Paeth) with the smallest sum of |r|.
    The gradient passes straight through rounding and ignores that another filter may be chosen. Differs from L where
    lines or patterns repeat, which the second stage of PNG notices, and by the file's header.

    Args:
        x: shape (B, 1 or 3, H, W), values in [0, 1].

    Returns:
        Shape (B,), >= 0.
    """
    check_channels(x)
    q = 255 * x + (255 * x.detach()).round() - 255 * x.detach()
    size = filtered(q).abs()  # (filters, B, C, H, W)
    best = size.detach().sum(dim=(2, 4)).argmin(dim=0)  # (B, H)
    chosen = one_hot(best, len(size)).movedim(-1, 0).to(x.dtype)[:, :, None, :, None]
    return ((STEEP * size + 1).log2() * chosen).sum(dim=0).mean(dim=(1, 2, 3))


def filtered(q: Tensor) -> Tensor:
    """Residuals of PNG's five filters, modulo 256 in [-128, 128]: shape (5, B, C, H, W)."""
    left, up = pad(q, (1, 0, 0, 0))[..., :-1], pad(q, (0, 0, 1, 0))[..., :-1, :]
    corner = pad(q, (1, 0, 1, 0))[..., :-1, :-1]
    half = (left + up) / 2
    average = half + half.detach().floor() - half.detach()
    near = torch.stack([left, up, corner])
    paeth = near.gather(0, (near - (left + up - corner)).abs().detach().argmin(dim=0, keepdim=True))[0]
    r = torch.stack([q, q - left, q - up, q - average, q - paeth])
    return r - 256 * (r.detach() / 256).round()
