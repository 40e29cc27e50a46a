"""Hue, saturation, brightness and contrast of the whole image: semantic changes, after Hosseini & Poovendran.

"Semantic Adversarial Examples", arXiv:1804.00499, shifts hue and saturation at random until the class changes.
"""

import torch
from torch import Tensor

from oodattack.attack import Attack
from oodattack.attacks.affine import search_cube
from oodattack.geometry import wide


def colour(*, limit: float) -> Attack:
    """Random search over four numbers a row: hue + h, then saturation, brightness and contrast times a factor each.

    |h| <= limit / 4 of the colour circle and factors in [1 - limit, 1 + limit] (the lower end at least 0). A grey
    image (C = 1) has brightness and contrast alone. Black box; half of the queries draw anew, half refine.

    Args:
        limit: largest change of a factor, >= 0; 0 leaves the image.

    Raises:
        ValueError: `limit` is negative; or, at the start, the image has neither 1 nor 3 channels.

    Differs from the paper: contrast and brightness as well, all within `limit`, and a search for the largest loss
    instead of the first change of the class.
    """
    if not limit >= 0:
        raise ValueError(f"`limit` must be >= 0, got {limit}. Write 0.4 for factors between 0.6 and 1.4.")

    def tint(x: Tensor, numbers: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"`x` must have 1 or 3 channels for colour, got {x.shape[1]}. Use another attack.")
        amounts = limit * numbers.to(x)
        hue = wide(amounts[:, 0] / 4, x[:, 0])
        saturation, brightness, contrast = (wide((1 + a).clamp(min=0), x) for a in amounts[:, 1:].unbind(1))
        if x.shape[1] == 3:
            h, s, v = hsv(x)
            x = rgb(h + hue, (s * saturation[:, 0]).clamp(max=1), v)
        x = (x * brightness).clamp(0, 1)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + (x - mean) * contrast).clamp(0, 1)

    return search_cube(tint, 4)


def hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in turns, saturation and value, each (B, H, W) in [0, 1], of colours (B, 3, H, W). Grey has hue 0."""
    r, g, b = x.unbind(1)
    v = x.amax(dim=1)
    spread = v - x.amin(dim=1)
    per = spread.where(spread > 0, 1)
    sixth = ((r - g) / per + 4).where(v == b, 0)
    sixth = ((b - r) / per + 2).where((v == g) & (v != b), sixth)
    sixth = ((g - b) / per).where(v == r, sixth)
    return (sixth / 6 % 1).where(spread > 0, 0), spread / v.where(v > 0, 1), v


def rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Colours (B, 3, H, W) of hue (any number of turns), saturation and value: channel n is v - v s tent(n + 6 h).

    tent(k) = clamp(min(k, 4 - k), 0, 1) for k mod 6, with n = 5, 3, 1 for red, green and blue.
    """
    k = torch.stack([(n + 6 * h) % 6 for n in (5, 3, 1)], dim=1)
    return (v - v * s).unsqueeze(1) + (v * s).unsqueeze(1) * (1 - torch.minimum(k, 4 - k).clamp(0, 1))
