"""What editing and storing a picture does to it, of the common corruptions, arXiv:1903.12261.

Each takes x (B, C, H, W), the streams of the rows and a severity 0..4, and returns the same shape.
"""

from io import BytesIO

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from oodattack.attacks.colour import hsv, rgb
from oodattack.attacks.filters import blur
from oodattack.attacks.stadv import warp
from oodattack.geometry import RowRandom, widest


def contrast(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Towards the mean of the channel."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[s] * (x - mean)


def saturate(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """HSV saturation times a factor plus a constant."""
    if x.shape[1] != 3:
        return x
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[s]
    hue, saturation, value = hsv(x)
    return rgb(hue, (factor * saturation + more).clamp(0, 1), value)


def elastic(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """A random affine map of three points, then a smooth random flow."""
    strength, smooth, jitter = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[s]
    corners = x.new_tensor([[2, 2, 3], [2, -2, 3], [-2, -2, 3]]) / 3  # a third of the side off the centre; grid spans 2
    moved = corners[:, :2] + 2 * jitter * (2 * random.uniform((3, 2)).to(x) - 1)
    theta = (torch.linalg.inv(widest(corners)).to(x) @ moved).mT
    x = grid_sample(
        x, affine_grid(theta, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )
    if not strength:
        return x
    flow = blur(2 * random.uniform((2, *x.shape[2:])).to(x) - 1, smooth * x.shape[3])
    return warp(x, strength * flow)


def pixelate(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Down to 95 to 65 % of the size by areas, and back by nearest neighbours."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[s]
    small = interpolate(x, [max(int(share * side), 1) for side in x.shape[2:]], mode="area")
    return interpolate(small, x.shape[2:], mode="nearest-exact")


def jpeg(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Quality 80 to 40; channel by channel where there are not three. A codec takes one picture at a time."""
    colour = x.shape[1] == 3
    pictures = x.movedim(1, -1) if colour else x.flatten(0, 1)
    quality = (80, 65, 58, 50, 40)[s]
    coded = [_through_jpeg(picture, quality) for picture in pictures.mul(255).round().to("cpu", torch.uint8)]
    back = torch.stack(coded) / 255 if coded else pictures
    return (back.movedim(-1, 1) if colour else back.view(x.shape)).to(x)


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    """One picture, (H, W) or (H, W, 3) in 0..255, written and read again."""
    from numpy import array
    from PIL import Image

    with BytesIO() as file:
        Image.fromarray(picture.numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            return torch.from_numpy(array(read)).float()
